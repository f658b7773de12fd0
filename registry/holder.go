package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tcpListen is the state column of a listening socket in /proc/net/tcp.
const tcpListen = "0A"

// holder finds the process that listens on a TCP port, by the socket's inode
// in /proc (proc(5)). Without the right to look into other users' processes it
// finds only our own.
func holder(port int) (pid int, name string, ok bool) {
	inodes := listenInodes(port)
	if len(inodes) == 0 {
		return 0, "", false
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, "", false
	}
	for _, l := range links {
		target, err := os.Readlink(l)
		if err != nil || !inodes[target] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(l))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		return pid, strings.TrimSpace(string(comm)), err == nil
	}
	return 0, "", false
}

// listenInodes returns the sockets that listen on port, in the form that
// /proc/PID/fd links to.
func listenInodes(port int) map[string]bool {
	suffix := fmt.Sprintf(":%04X", port)
	out := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == tcpListen {
				out["socket:["+f[9]+"]"] = true
			}
		}
	}
	return out
}
