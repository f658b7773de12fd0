package tree

import (
	"encoding/binary"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// stampKey is the extended attribute by which a stamp travels with a file's stat. No file system takes an
// attribute of that name, so a receiver that does not know it drops it.
const stampKey = "gantry.stamp"

// Stamp tells states of one file apart that size and time stamps do not: its inode and ctime are in it, which
// no program can set. It is 0 when the file was changed so shortly before that it could change again unseen.
type Stamp uint64

// stampOf is the stamp of the file at path. It is 0 when there is none.
func stampOf(path string) Stamp {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	if !(Signature{Newest: time.Unix(st.Ctim.Unix())}).Settled(time.Now()) {
		return 0
	}
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, []uint64{
		uint64(st.Dev), st.Ino, uint64(st.Size), uint64(st.Mode), uint64(st.Ctim.Nano()), uint64(st.Mtim.Nano()), uint64(st.Rdev),
	})
	return Stamp(h.Sum64())
}

// WithStamps is a directory in which each file has its stamp; root is where it is. Owners are left out, as
// BuildKit's clients leave them out (client/solve.go, prepareSyncedFiles, v0.34.2).
func WithStamps(dir fsutil.FS, root string) (fsutil.FS, error) {
	return fsutil.NewFilterFS(dir, &fsutil.FilterOpt{Map: func(path string, st *types.Stat) fsutil.MapResult {
		st.Uid, st.Gid = 0, 0
		if os.FileMode(st.Mode).IsDir() {
			return fsutil.MapResultKeep
		}
		if st.Xattrs == nil {
			st.Xattrs = map[string][]byte{}
		}
		st.Xattrs[stampKey] = binary.LittleEndian.AppendUint64(nil, uint64(stampOf(filepath.Join(root, path))))
		return fsutil.MapResultKeep
	}})
}

// TakeStamp takes the stamp out of a stat; ok is false when it has none.
func TakeStamp(st *types.Stat) (s Stamp, ok bool) {
	b, ok := st.Xattrs[stampKey]
	delete(st.Xattrs, stampKey)
	if !ok || len(b) != 8 {
		return 0, false
	}
	return Stamp(binary.LittleEndian.Uint64(b)), true
}
