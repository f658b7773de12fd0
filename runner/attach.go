package runner

import (
	"time"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/stream"
)

// Attach connects a client to a container's streams, now or before its start. The time parts the
// log from the stream: what was logged before it is not passed to the attachment. The caller closes
// the attachment.
func (m *Manager) Attach(ref string) (*stream.Attachment, time.Time, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, time.Time{}, err
	}
	if c.record().State.Paused {
		return nil, time.Time{}, fault.Conflict("container %s is paused, unpause the container before attach", ref)
	}
	a, at := c.streams.Attach()
	m.emit(c.record(), "attach")
	return a, at, nil
}
