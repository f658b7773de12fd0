package command

import (
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/gantry-build/gantry/internal/logrusto"
)

// routeLogrus sends what containerd, BuildKit and distribution log to log. Their standard logger is a global
// of the libraries' own.
func routeLogrus(log *slog.Logger, debug bool) {
	level := logrus.InfoLevel
	if debug {
		level = logrus.DebugLevel
	}
	logrusto.Hook{Out: log, Level: librariesLevel}.Install(logrus.StandardLogger(), level)
}

// librariesLevel takes the libraries' "info" for what it is: what happens inside them.
func librariesLevel(e *logrus.Entry) (slog.Level, bool) {
	level := slog.LevelDebug
	switch e.Level {
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel:
		level = slog.LevelError
	}
	return level, !cosmetic(e.Message)
}

// cosmetic messages are logged as errors or warnings in ordinary work, and mean nothing here.
func cosmetic(msg string) bool {
	for _, part := range []string{
		"copy shim log",             // containerd: the shim's log pipe is closed at its end
		"cgroups: epoll wait",       // containerd: cgroup v1's event poll has ended
		"failed check for fsverity", // containerd: most file systems have none
		"no trace recorder found",   // BuildKit: tracing is off
		`exec: "buildkit-qemu-`,     // BuildKit looks for emulators of its own kind first
	} {
		if strings.Contains(msg, part) {
			return true
		}
	}
	return false
}
