package runner

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/user"

	"github.com/gantry-build/gantry/internal/fault"
)

// clockTicks is USER_HZ, which Linux fixes at 100 for all that it shows in /proc.
const clockTicks = 100

// Top lists the processes of a container in the columns of `ps -ef`, with the host's process and
// user IDs. Only that format exists, since the host may have no ps to ask.
func (m *Manager) Top(ctx context.Context, ref, psArgs string) (titles []string, rows [][]string, err error) {
	if psArgs != "" && psArgs != "-ef" {
		return nil, nil, fault.Invalid("ps arguments %q are not supported: use -ef", psArgs)
	}
	c, err := m.find(ref)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.running()
	if err != nil {
		return nil, nil, err
	}
	pids, err := r.task.Pids(scoped(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("processes of container %s: %w", c.id, err)
	}
	names := userNames()
	for _, p := range pids {
		if row, err := procRow(p.Pid, names); err == nil { // else it ended meanwhile
			rows = append(rows, row)
		}
	}
	return []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, rows, nil
}

func userNames() map[string]string {
	names := map[string]string{}
	users, err := user.ParsePasswdFile("/etc/passwd")
	if err != nil {
		return names
	}
	for _, u := range users {
		names[strconv.Itoa(u.Uid)] = u.Name
	}
	return names
}

// procRow reads proc_pid_stat(5) and its neighbours.
func procRow(pid uint32, names map[string]string) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return nil, err
	}
	name, fields, err := splitStat(string(stat))
	if err != nil {
		return nil, err
	}
	num := func(field int) int64 { // numbered as in the manual, where comm is 2
		n, _ := strconv.ParseInt(fields[field-3], 10, 64)
		return n
	}
	cpu := time.Duration(num(14)+num(15)) * time.Second / clockTicks
	born := bootTime().Add(time.Duration(num(22)) * time.Second / clockTicks)
	share := 0
	if alive := time.Since(born); alive > 0 {
		share = int(100 * cpu / alive)
	}
	return []string{
		owner(dir, names), strconv.Itoa(int(pid)), fields[1], strconv.Itoa(share),
		startTime(born), tty(num(7)), clock(cpu), command(dir, name),
	}, nil
}

// splitStat takes the name out, which may hold blanks and brackets.
func splitStat(stat string) (name string, fields []string, err error) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", nil, fmt.Errorf("unknown format of /proc/pid/stat: %q", stat)
	}
	fields = strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return "", nil, fmt.Errorf("unknown format of /proc/pid/stat: %q", stat)
	}
	return stat[open+1 : end], fields, nil
}

func owner(dir string, names map[string]string) string {
	status, _ := os.ReadFile(dir + "status")
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(ids); len(f) > 1 {
				if n := names[f[1]]; n != "" {
					return n
				}
				return f[1]
			}
		}
	}
	return "?"
}

func bootTime() time.Time {
	stat, _ := os.ReadFile("/proc/stat")
	for line := range strings.Lines(string(stat)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			return time.Unix(n, 0)
		}
	}
	return time.Time{}
}

func startTime(t time.Time) string {
	if time.Since(t) < 24*time.Hour {
		return t.Format("15:04")
	}
	return t.Format("Jan02")
}

func tty(nr int64) string {
	if nr == 0 {
		return "?"
	}
	return fmt.Sprintf("pts/%d", nr&0xff|nr>>12&0xfff00)
}

func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

func command(dir, name string) string {
	line, _ := os.ReadFile(dir + "cmdline")
	if len(line) == 0 {
		return "[" + name + "]"
	}
	return strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
}
