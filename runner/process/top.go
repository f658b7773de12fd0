package process

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/moby/sys/user"
	"github.com/prometheus/procfs"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
)

// Top lists the processes of a container in the columns of `ps -ef`, with the host's process and user IDs; other
// columns are those of the host's own ps, which must be there, and have to have the process ID among them.
func Top(ctx context.Context, task client.Task, psArgs string) (titles []string, rows [][]string, err error) {
	pids, err := task.Pids(cache.WithNamespace(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("processes of container %s: %w", task.ID(), err)
	}
	if psArgs != "" && psArgs != "-ef" {
		return ps(ctx, pids, psArgs)
	}
	names := userNames()
	for _, p := range pids {
		if row, err := procRow(int(p.Pid), names); err == nil { // else it ended meanwhile
			rows = append(rows, row)
		}
	}
	return []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, rows, nil
}

// ps is what the host's ps prints of some processes.
func ps(ctx context.Context, pids []client.ProcessInfo, args string) (titles []string, rows [][]string, err error) {
	out, err := exec.CommandContext(ctx, "ps", strings.Fields(args)...).Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil, fault.Invalid("this machine has no ps: only the columns of -ef can be shown")
	}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return nil, nil, fault.Invalid("ps: %s", strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ps: %w", err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	titles = strings.Fields(lines[0])
	at := slices.Index(titles, "PID")
	if at < 0 {
		return nil, nil, fault.Invalid("Couldn't find PID field in ps output")
	}
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		if len(words) <= at || len(words) < len(titles) || !slices.ContainsFunc(pids, func(p client.ProcessInfo) bool {
			return words[at] == strconv.Itoa(int(p.Pid))
		}) {
			continue
		}
		last := len(titles) - 1 // which may have several words
		rows = append(rows, append(words[:last:last], strings.Join(words[last:], " ")))
	}
	return titles, rows, nil
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
