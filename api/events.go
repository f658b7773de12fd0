package api

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

func registerEvents(r *Router, m *runner.Manager) {
	r.Handle(http.MethodGet, "/events", func(w http.ResponseWriter, req *http.Request) error { return serveEvents(m, w, req) })
}

// serveEvents streams events as JSON lines until "until", the client's leave, or the daemon's end.
func serveEvents(m *runner.Manager, w http.ResponseWriter, r *http.Request) error {
	since, err := timeOf(r, "since")
	if err != nil {
		return err
	}
	until, err := timeOf(r, "until")
	if err != nil {
		return err
	}
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("type", "event", "container", "image", "label", "network", "volume", "scope", "daemon", "plugin",
		"node", "service", "secret", "config"); err != nil {
		return err
	}
	ctx := r.Context()
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	enc := json.NewEncoder(w)
	for e := range m.Events(ctx, since) {
		if !wanted(f, e) {
			continue
		}
		if err := enc.Encode(messageFor(r, e)); err != nil {
			return nil // the client has gone
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	return nil
}

func message(e runner.Event) events.Message {
	return events.Message{
		Type: events.Type(e.Type), Action: events.Action(e.Action),
		Actor: events.Actor{ID: e.ID, Attributes: e.Attributes},
		Scope: scopeOf(e), Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
}

// messageFor is an event with what clients before version 1.52 look for.
func messageFor(r *http.Request, e runner.Event) any {
	if !before(r, "1.52") {
		return message(e)
	}
	old := struct {
		Status string `json:"status,omitempty"`
		ID     string `json:"id,omitempty"`
		From   string `json:"from,omitempty"`
		events.Message
	}{Message: message(e)}
	if e.Type == "container" || e.Type == "image" {
		old.Status, old.ID, old.From = e.Action, e.ID, e.Attributes["image"]
	}
	return old
}

func wanted(f filters, e runner.Event) bool {
	action, _, _ := strings.Cut(e.Action, ":")
	is := func(term string, match func(string) bool) bool {
		return !f.any(term) || slices.ContainsFunc(f.values(term), match)
	}
	actor := func(typ string) func(string) bool {
		return func(v string) bool {
			return e.Type == typ && v != "" && (strings.HasPrefix(e.ID, v) || e.Attributes["name"] == v)
		}
	}
	return is("type", func(v string) bool { return v == e.Type }) &&
		is("event", func(v string) bool { return v == e.Action || v == action }) &&
		is("scope", func(v string) bool { return v == scopeOf(e) }) &&
		is("container", actor("container")) && is("network", actor("network")) && is("volume", actor("volume")) &&
		is("image", func(v string) bool { return e.Attributes["image"] == v || e.Type == "image" && actor("image")(v) }) &&
		is("daemon", actor("daemon")) && is("plugin", actor("plugin")) && is("node", actor("node")) &&
		is("service", actor("service")) && is("secret", actor("secret")) && is("config", actor("config")) &&
		f.labels("label", e.Attributes)
}

// timeOf reads a time of the query: seconds since 1970 with an optional fraction, or RFC 3339.
func timeOf(r *http.Request, name string) (time.Time, error) {
	v := r.URL.Query().Get(name)
	if v == "" || v == "0" {
		return time.Time{}, nil
	}
	sec, frac, _ := strings.Cut(v, ".")
	if n, err := strconv.ParseInt(sec, 10, 64); err == nil && n < math.MaxInt32*1000 {
		ns, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		if err == nil {
			return time.Unix(n, ns), nil
		}
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return t, fault.Invalid("invalid value %q for %q: want seconds since 1970 or RFC 3339", v, name)
	}
	return t, nil
}

func scopeOf(e runner.Event) string {
	if e.Swarm {
		return "swarm"
	}
	return "local"
}
