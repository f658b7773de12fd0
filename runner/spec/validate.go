package spec

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gantry-build/gantry/internal/fault"
)

// Validate refuses what this package can't do or what contradicts itself, naming the option. The
// errors are errdefs.ErrInvalidArgument.
func Validate(c Config, h HostConfig) error {
	for _, check := range []func(Config, HostConfig) error{
		checkModes, checkRestart, checkLimits, checkDir, checkLog, checkHealth, checkWords,
	} {
		if err := check(c, h); err != nil {
			return err
		}
	}
	if len(c.Args()) == 0 {
		return fault.Invalid("no command specified")
	}
	if _, err := parseSecurity(h.SecurityOpt); err != nil {
		return err
	}
	if _, err := capabilities(h, AllCapabilities()); err != nil {
		return err
	}
	if _, err := deviceRules(h.DeviceCgroupRules); err != nil {
		return err
	}
	_, err := rlimits(h.Ulimits)
	return err
}

// oneOf says which values of an option exist here; anything else is refused by name.
func oneOf(option, value string, known ...string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fault.Invalid("%s %q is not supported: use one of %s", option, value, strings.Join(known[1:], ", "))
}

func checkModes(_ Config, h HostConfig) error {
	ipc, sharesIPC := strings.CutPrefix(h.IpcMode, "container:")
	pid, shares := strings.CutPrefix(h.PidMode, "container:")
	switch { // in Docker's words
	case !slices.Contains([]string{"", "host"}, h.PidMode) && (!shares || pid == ""):
		return fault.Invalid("invalid PID mode: %s", h.PidMode)
	case !slices.Contains([]string{"", "private", "shareable", "host", "none"}, h.IpcMode) && (!sharesIPC || ipc == ""):
		return fault.Invalid("invalid IPC mode: %s", h.IpcMode)
	case !slices.Contains([]string{"", "private", "host"}, h.CgroupnsMode):
		return fault.Invalid("invalid cgroup namespace mode: %s", h.CgroupnsMode)
	case h.UTSMode != "" && h.UTSMode != "host":
		return fault.Invalid("invalid UTS mode: %s", h.UTSMode)
	case !slices.Contains([]string{"", "runc", "io.containerd.runc.v2"}, h.Runtime):
		return fault.Invalid("unknown or invalid runtime name: %s; there is runc", h.Runtime)
	}
	for _, c := range []struct {
		option, value string
		known         []string
	}{
		{"user namespace mode", h.UsernsMode, []string{"", "host"}},
		{"isolation", h.Isolation, []string{"", "default"}},
	} {
		if err := oneOf(c.option, c.value, c.known...); err != nil {
			return err
		}
	}
	return nil
}

func checkRestart(_ Config, h HostConfig) error {
	p := h.RestartPolicy
	known := slices.Contains([]string{"", "no", "always", "unless-stopped", "on-failure"}, p.Name)
	switch {
	case !known:
		return fault.Invalid("invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
			p.Name)
	case p.MaximumRetryCount != 0 && p.Name != "on-failure":
		return fault.Invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'")
	case p.MaximumRetryCount < 0:
		return fault.Invalid("invalid restart policy: maximum retry count cannot be negative")
	}
	if h.AutoRemove && p.Name != "" && p.Name != "no" {
		return fault.Invalid("can't create 'AutoRemove' container with restart policy")
	}
	return nil
}

const minMemory = 6 << 20

func checkLimits(_ Config, h HostConfig) error {
	switch {
	case h.Memory < 0 || h.MemoryReservation < 0 || h.ShmSize < 0:
		return fault.Invalid("memory limits can not be negative")
	case h.Memory > 0 && h.Memory < minMemory:
		return fault.Invalid("Minimum memory limit allowed is 6MB")
	case h.MemorySwap > 0 && h.Memory == 0:
		return fault.Invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case h.MemorySwap > 0 && h.MemorySwap < h.Memory:
		return fault.Invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case h.CPUShares < 0:
		return fault.Invalid("invalid CPU shares (%d): value must be a positive integer", h.CPUShares)
	case h.NanoCPUs < 0:
		return fault.Invalid("NanoCPUs can not be negative")
	case h.NanoCPUs > 0 && (h.CPUPeriod != 0 || h.CPUQuota != 0):
		return fault.Invalid("conflicting options: Nano CPUs and CPU period or quota cannot both be set")
	case h.CPUPeriod != 0 && (h.CPUPeriod < 1000 || h.CPUPeriod > 1000000):
		return fault.Invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return fault.Invalid("invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case len(h.StorageOpt) > 0:
		return fault.Invalid("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
	case h.BlkioWeight != 0 && (h.BlkioWeight < 10 || h.BlkioWeight > 1000):
		return fault.Invalid("range of blkio weight is from 10 to 1000")
	}
	return nil
}

func checkDir(c Config, _ HostConfig) error {
	if c.WorkingDir != "" && !path.IsAbs(c.WorkingDir) {
		return fault.Invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
	}
	return nil
}

func checkLog(_ Config, h HostConfig) error {
	name := h.LogConfig.Type
	if !slices.Contains([]string{"", "json-file", "local", "journald", "syslog", "none"}, name) {
		return fault.Invalid("error looking up logging plugin %s: plugin %q not found", name, name) // not a 404: docker run would pull
	}
	return nil
}

func checkHealth(c Config, _ HostConfig) error {
	if c.Healthcheck == nil {
		return nil
	}
	for name, d := range map[string]time.Duration{
		"Interval": c.Healthcheck.Interval, "Timeout": c.Healthcheck.Timeout, "StartPeriod": c.Healthcheck.StartPeriod,
		"StartInterval": c.Healthcheck.StartInterval,
	} {
		if d != 0 && d < time.Millisecond {
			return fault.Invalid("%s in Healthcheck cannot be less than %s", name, time.Millisecond)
		}
	}
	if c.Healthcheck.Retries < 0 {
		return fault.Invalid("Retries in Healthcheck cannot be negative")
	}
	if len(c.Healthcheck.Test) == 0 {
		return nil
	}
	return oneOf("healthcheck test type", c.Healthcheck.Test[0], "", "NONE", "CMD", "CMD-SHELL")
}

// checkWords refuses names that are none.
func checkWords(c Config, h HostConfig) error {
	if err := CheckEnv(c.Env); err != nil {
		return err
	}
	for k := range h.Annotations {
		if k == "" {
			return fault.Invalid("invalid Annotations: the empty string is not permitted as an annotation key")
		}
	}
	return nil
}

// CheckEnv refuses variables without a name.
func CheckEnv(env []string) error {
	for _, e := range env {
		if name, _, _ := strings.Cut(e, "="); name == "" {
			return fault.Invalid("invalid environment variable: %s", e)
		}
	}
	return nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// ValidName tells whether a container or a volume may have the name.
func ValidName(name string) bool { return validName.MatchString(name) }
