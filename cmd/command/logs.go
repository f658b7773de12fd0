package command

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
)

// routeLogrus sends what containerd and BuildKit log to log. Their standard logger is a global of
// the libraries' own.
func routeLogrus(log *slog.Logger, debug bool) {
	l := logrus.StandardLogger()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.InfoLevel)
	if debug {
		l.SetLevel(logrus.DebugLevel)
	}
	l.ReplaceHooks(logrus.LevelHooks{})
	l.AddHook(toSlog{log})
}

type toSlog struct{ log *slog.Logger }

func (toSlog) Levels() []logrus.Level { return logrus.AllLevels }

func (t toSlog) Fire(e *logrus.Entry) error {
	if cosmetic(e.Message) {
		return nil
	}
	level := slog.LevelDebug // the libraries' "info" is what happens inside them
	switch e.Level {
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel:
		level = slog.LevelError
	}
	args := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		args = append(args, k, v)
	}
	t.log.Log(context.Background(), level, e.Message, args...)
	return nil
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
