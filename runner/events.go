package runner

import (
	"context"
	"maps"
	"sync"
	"time"
)

// Event is something that happened to a container, image, network or volume, or to what a cluster has.
type Event struct {
	Type       string // container, image, ...
	Action     string // create, start, die, ... (Engine API: EventMessage)
	ID         string
	Attributes map[string]string
	Time       time.Time
	Swarm      bool // of the whole cluster, not of this machine
}

const (
	eventsKept   = 256  // for subscribers that ask for the past
	eventsQueued = 1024 // a subscriber that lags behind by more is cut off
)

// bus hands events to subscribers and keeps the last ones. Its zero value works.
type bus struct {
	mu     sync.Mutex
	past   []Event
	subs   map[chan Event]bool
	closed bool
}

func (b *bus) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.past = append(b.past, e)
	if len(b.past) > eventsKept {
		b.past = append([]Event(nil), b.past[1:]...)
	}
	for ch := range b.subs {
		select {
		case ch <- e:
		default:
			delete(b.subs, ch)
			close(ch)
		}
	}
}

func (b *bus) subscribe(since time.Time) chan Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan Event, eventsQueued)
	if b.closed {
		close(ch)
		return ch
	}
	if !since.IsZero() {
		for _, e := range b.past {
			if !e.Time.Before(since) {
				ch <- e
			}
		}
	}
	if b.subs == nil {
		b.subs = map[chan Event]bool{}
	}
	b.subs[ch] = true
	return ch
}

func (b *bus) unsubscribe(ch chan Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs[ch] {
		delete(b.subs, ch)
		close(ch)
	}
}

func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.subs {
		delete(b.subs, ch)
		close(ch)
	}
}

// Publish adds an event of another room, for instance of an image.
func (m *Manager) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	m.events.publish(e)
}

// Events returns a channel of all events from now on, preceded, with a since that is not zero, by
// the latest 256 events that are not older. It is closed when ctx ends, when the manager closes, and
// when its reader lags too far behind.
func (m *Manager) Events(ctx context.Context, since time.Time) <-chan Event {
	ch := m.events.subscribe(since)
	context.AfterFunc(ctx, func() { m.events.unsubscribe(ch) })
	return ch
}

// EventListeners is how many wait for events.
func (m *Manager) EventListeners() int {
	m.events.mu.Lock()
	defer m.events.mu.Unlock()
	return len(m.events.subs)
}

// emit publishes an event of a container, with Docker's attributes.
func (m *Manager) emit(rec Record, action string, extra ...string) {
	attrs := maps.Clone(rec.Config.Labels)
	if attrs == nil {
		attrs = map[string]string{}
	}
	attrs["image"], attrs["name"] = rec.Config.Image, rec.Name
	for i := 0; i+1 < len(extra); i += 2 {
		attrs[extra[i]] = extra[i+1]
	}
	m.events.publish(Event{Type: "container", Action: action, ID: rec.ID, Attributes: attrs, Time: time.Now()})
}
