package process

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/moby/sys/user"
	"github.com/prometheus/procfs"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
)

// Top lists the processes of a container in the columns of `ps -ef`, with the host's process and
// user IDs. Only that format exists, since the host may have no ps to ask.
func Top(ctx context.Context, task client.Task, psArgs string) (titles []string, rows [][]string, err error) {
	if psArgs != "" && psArgs != "-ef" {
		return nil, nil, fault.Invalid("ps arguments %q are not supported: use -ef", psArgs)
	}
	pids, err := task.Pids(cache.WithNamespace(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("processes of container %s: %w", task.ID(), err)
	}
	names := userNames()
	for _, p := range pids {
		if row, err := procRow(int(p.Pid), names); err == nil { // else it ended meanwhile
			rows = append(rows, row)
		}
	}
	return []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, rows, nil
}

func userNames() map[uint64]string {
	names := map[uint64]string{}
	users, err := user.ParsePasswdFile("/etc/passwd")
	if err != nil {
		return names
	}
	for _, u := range users {
		names[uint64(u.Uid)] = u.Name
	}
	return names
}

func procRow(pid int, names map[uint64]string) ([]string, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return nil, err
	}
	st, err := p.Stat()
	if err != nil {
		return nil, err
	}
	status, err := p.NewStatus()
	if err != nil {
		return nil, err
	}
	words, err := p.CmdLine()
	if err != nil {
		return nil, err
	}
	since, err := st.StartTime() // seconds since 1970
	if err != nil {
		return nil, err
	}
	born, share := time.UnixMilli(int64(1000*since)), 0
	if alive := time.Since(born).Seconds(); alive > 0 {
		share = int(100 * st.CPUTime() / alive)
	}
	owner, command := names[status.UIDs[1]], strings.Join(words, " ")
	if owner == "" {
		owner = strconv.FormatUint(status.UIDs[1], 10)
	}
	if command == "" {
		command = "[" + st.Comm + "]"
	}
	return []string{
		owner, strconv.Itoa(pid), strconv.Itoa(st.PPID), strconv.Itoa(share), startTime(born), tty(st.TTY), clock(st.CPUTime()), command,
	}, nil
}

func startTime(t time.Time) string {
	if time.Since(t) < 24*time.Hour {
		return t.Format("15:04")
	}
	return t.Format("Jan02")
}

func tty(nr int) string {
	if nr == 0 {
		return "?"
	}
	return fmt.Sprintf("pts/%d", nr&0xff|nr>>12&0xfff00)
}

func clock(seconds float64) string {
	s := int(seconds)
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
