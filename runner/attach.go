package runner

import "time"

// Attach connects a client to a container's streams, now or before its start. The time parts the
// log from the stream: what was logged before it is not passed to the attachment. The caller closes
// the attachment.
func (m *Manager) Attach(ref string) (*Attachment, time.Time, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, time.Time{}, err
	}
	if c.record().State.Paused {
		return nil, time.Time{}, conflict("container %s is paused, unpause the container before attach", ref)
	}
	a, at := c.streams.attach()
	m.emit(c.record(), "attach")
	return a, at, nil
}
