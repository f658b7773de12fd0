package payload

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/gantry-build/gantry/internal/memfile"
	"github.com/gantry-build/gantry/internal/state"
)

func (b bundle) extract(dir, name string) (string, error) {
	p, err := b.find(name)
	if err != nil {
		return "", err
	}
	home := filepath.Join(dir, p.Name+"-"+p.SHA256[:12])
	path := filepath.Join(home, p.Name)
	if p.unpackedAt(path) {
		return path, nil
	}
	if err := b.unpackAlone(dir, home, p); err != nil {
		return "", fmt.Errorf("unpacking %s to %s: %w", p.Name, home, err)
	}
	return path, nil
}

func (p Program) unpackedAt(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm() == 0o755 && info.Size() == p.Size
}

// unpackAlone holds the program's lock. Whoever waited for it finds the program
// there, and whoever gets it finds only the leavings of the dead.
func (b bundle) unpackAlone(dir, home string, p Program) error {
	if err := state.Private(dir); err != nil {
		return err
	}
	unlock, err := state.Lock(filepath.Join(dir, "."+p.Name+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if p.unpackedAt(filepath.Join(home, p.Name)) {
		return nil
	}
	if err := removeAll(filepath.Join(dir, "."+p.Name+".tmp*")); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(dir, "."+p.Name+".tmp")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone already when all went well
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err := b.unpack(filepath.Join(temp, p.Name), p); err != nil {
		return err
	}
	if err := os.RemoveAll(home); err != nil { // damaged, or it would have been taken
		return err
	}
	if err := os.Rename(temp, home); err != nil {
		return err
	}
	return state.SyncDir(dir)
}

func (b bundle) load(name string) (*os.File, error) {
	p, err := b.find(name)
	if err != nil {
		return nil, err
	}
	file, err := memfile.New(name, true)
	if err != nil {
		return nil, err
	}
	if err := b.copyTo(file, p); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (b bundle) copyTo(file *os.File, p Program) error {
	packed, err := b.files.Open(p.Name + ".zst")
	if err != nil {
		return err
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed)
	if err != nil {
		return err
	}
	defer z.Close()
	return p.write(file, z)
}

func (b bundle) unpack(path string, p Program) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	err = b.copyTo(file, p)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	// A process that another goroutine forks in this moment holds the file open
	// for writing until its exec, and the program could not start ("text file
	// busy"). Whoever has the lock after the close knows that there is none.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	return state.SyncDir(filepath.Dir(path))
}

func (p Program) write(file *os.File, from io.Reader) error {
	digest := sha256.New()
	// One byte more than there may be, so that a longer program shows as such.
	n, err := io.Copy(io.MultiWriter(file, digest), io.LimitReader(from, p.Size+1))
	if err != nil {
		return err
	}
	if sum := hex.EncodeToString(digest.Sum(nil)); n != p.Size || sum != p.SHA256 {
		return fmt.Errorf("it is damaged: %d bytes with sha256 %s, not %d with %s; build gantry anew with `make build`",
			n, sum, p.Size, p.SHA256)
	}
	if err := file.Chmod(0o755); err != nil { // whatever the umask is
		return err
	}
	return file.Sync()
}

func removeAll(pattern string) error {
	old, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
