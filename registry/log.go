package registry

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net/http"
	"reflect"
	"strings"

	"github.com/sirupsen/logrus"
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
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetFormatter(noText{})
	l.AddHook(slogHook{out})
	l.SetLevel(logrus.ErrorLevel)
	if out.Enabled(ctx, slog.LevelDebug) {
		l.SetLevel(logrus.DebugLevel)
	}
	return logContext{Context: ctx, entry: logrus.NewEntry(l)}
}

func (c logContext) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && t.Name() == "loggerKey" && t.PkgPath()+"."+t.Name() == loggerKey {
		return c.entry
	}
	return c.Context.Value(key)
}

type noText struct{}

func (noText) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

type slogHook struct{ out *slog.Logger }

func (slogHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h slogHook) Fire(e *logrus.Entry) error {
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	attrs := make([]slog.Attr, 0, len(e.Data)+1)
	attrs = append(attrs, slog.String("part", "registry"))
	for k, v := range e.Data {
		attrs = append(attrs, slog.Any(k, v))
	}
	h.out.LogAttrs(ctx, level(e), e.Message, attrs...)
	return nil
}

// level keeps distribution's errors for those that are the registry's own
// fault: it also calls it an error when a client asks for a blob that is not
// there, which every push does for every layer.
func level(e *logrus.Entry) slog.Level {
	if e.Level > logrus.ErrorLevel {
		return slog.LevelDebug
	}
	status, ok := e.Data["http.response.status"].(int)
	if ok && status >= http.StatusInternalServerError {
		return slog.LevelError
	}
	return slog.LevelDebug
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
