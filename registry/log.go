package registry

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"reflect"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/gantry-build/gantry/internal/logrusto"
)

// loggerKey names the context key under which distribution looks for its
// logger (internal/dcontext/logger.go, v3.1.2). The package is internal, so
// the key cannot be said in Go; known by name it spares us from changing the
// logger of the whole process. A test notices when the name moves.
const loggerKey = "github.com/distribution/distribution/v3/internal/dcontext.loggerKey"

// logContext answers distribution's question for a logger with ours.
type logContext struct {
	context.Context
	entry *logrus.Entry
}

func withLogger(ctx context.Context, out *slog.Logger) context.Context {
	l, detail := logrus.New(), logrus.ErrorLevel
	if out.Enabled(ctx, slog.LevelDebug) {
		detail = logrus.DebugLevel
	}
	logrusto.Hook{Out: out.With("part", "registry"), Level: level}.Install(l, detail)
	return logContext{Context: ctx, entry: logrus.NewEntry(l)}
}

func (c logContext) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && t.Name() == "loggerKey" && t.PkgPath()+"."+t.Name() == loggerKey {
		return c.entry
	}
	return c.Context.Value(key)
}

// level keeps distribution's errors for those that are the registry's own
// fault: it also calls it an error when a client asks for a blob that is not
// there, which every push does for every layer.
func level(e *logrus.Entry) (slog.Level, bool) {
	status, ok := e.Data["http.response.status"].(int)
	if ok && e.Level <= logrus.ErrorLevel && status >= http.StatusInternalServerError {
		return slog.LevelError, true
	}
	return slog.LevelDebug, true
}

// httpErrorLog takes what net/http says by itself. Failed handshakes are the
// doing of clients (scanners, browsers, machines that do not trust the
// authority yet); a panic in a handler is ours.
func httpErrorLog(out *slog.Logger) *log.Logger {
	return log.New(httpErrors{out}, "", 0)
}

type httpErrors struct{ out *slog.Logger }

func (h httpErrors) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	at := slog.LevelDebug
	if strings.Contains(text, "panic serving") || strings.Contains(text, "Accept error") {
		at = slog.LevelError
	}
	h.out.Log(context.Background(), at, text, "part", "registry")
	return len(p), nil
}
