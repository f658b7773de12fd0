package runner

import (
	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"
)

// watchOOM books containers that ran out of memory. Shims tell it before the exit.
func (m *Manager) watchOOM() {
	events, errs := m.client.EventService().Subscribe(m.ctx, `topic=="/tasks/oom"`)
	m.background(func() {
		for {
			select {
			case e := <-events:
				if e == nil || e.Event == nil {
					continue
				}
				v, err := typeurl.UnmarshalAny(e.Event)
				if oom, ok := v.(*apievents.TaskOOM); err == nil && ok {
					m.bookOOM(oom.ContainerID)
				}
			case err := <-errs:
				if m.ctx.Err() == nil {
					m.log.Error("events of shims ended: containers out of memory are not noticed any more", "error", err)
				}
				return
			}
		}
	})
}

func (m *Manager) bookOOM(id string) {
	c, err := m.find(id)
	if err != nil {
		return
	}
	if err := c.update(func(r *Record) { r.State.OOMKilled = true }); err != nil {
		m.log.Error("writing the record of a container out of memory", "container", id, "error", err)
	}
	m.emit(c.record(), "oom")
}
