package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Exec asks for a further process in a running container.
type Exec struct {
	Args        []string
	Env         []string
	User        string // looked up by the caller
	WorkingDir  string
	Tty         bool
	Privileged  bool
	ConsoleSize [2]uint // height, width
}

// ExecProcess is base, the container's own process, turned into the one that e asks for: limits,
// environment and directory are the container's where e names none.
func ExecProcess(base *specs.Process, e Exec, u User, m Machine) *specs.Process {
	p := *base
	p.Args, p.Terminal, p.ConsoleSize = e.Args, e.Tty, nil
	p.Env = mergeEnv(base.Env, e.Env)
	if _, ok := LookupEnv(p.Env, "TERM"); e.Tty && !ok {
		p.Env = append(p.Env, "TERM=xterm")
	}
	if u.UID != base.User.UID && u.Home != "" {
		if _, ok := LookupEnv(e.Env, "HOME"); !ok {
			p.Env = mergeEnv(p.Env, []string{"HOME=" + u.Home})
		}
	}
	p.User = specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Groups, Umask: base.User.Umask}
	if e.WorkingDir != "" {
		p.Cwd = e.WorkingDir
	}
	caps := base.Capabilities.Bounding
	if e.Privileged {
		if caps = m.Capabilities; caps == nil {
			caps = AllCapabilities()
		}
	}
	p.Capabilities = capabilitySets(caps, u.UID)
	if s := e.ConsoleSize; e.Tty && s[0] > 0 && s[1] > 0 {
		p.ConsoleSize = &specs.Box{Height: s[0], Width: s[1]}
	}
	return &p
}
