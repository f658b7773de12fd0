package api

import (
	"net/http"

	"github.com/moby/moby/api/types/container"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/process"
	"github.com/gantry-build/gantry/runner/spec"
)

func registerExec(r *Router, m *runner.Manager) {
	e := &execAPI{m}
	r.Handle(http.MethodPost, "/containers/{id}/exec", e.create)
	r.Handle(http.MethodPost, "/exec/{id}/start", e.start)
	r.Handle(http.MethodPost, "/exec/{id}/resize", e.resize)
	r.Handle(http.MethodGet, "/exec/{id}/json", e.inspect)
}

type execAPI struct{ m *runner.Manager }

func (e *execAPI) create(w http.ResponseWriter, r *http.Request) error {
	var body container.ExecCreateRequest
	if err := readJSON(r, &body); err != nil {
		return err
	}
	cfg := process.Config{
		Exec: spec.Exec{
			Args: body.Cmd, Env: body.Env, User: body.User, WorkingDir: body.WorkingDir, Tty: body.Tty, Privileged: body.Privileged,
		},
		AttachStdin: body.AttachStdin, AttachStdout: body.AttachStdout, AttachStderr: body.AttachStderr, DetachKeys: body.DetachKeys,
	}
	if body.ConsoleSize != nil && body.Tty && !before(r, "1.42") {
		cfg.ConsoleSize = *body.ConsoleSize
	}
	if _, err := detachKeys(cfg.DetachKeys); err != nil {
		return err
	}
	id, err := e.m.Processes.Create(r.PathValue("id"), cfg)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// start runs a prepared process, detached or joined with this connection. An error after the
// connection was taken over is shown in it, and its exit code by inspect.
func (e *execAPI) start(w http.ResponseWriter, r *http.Request) error {
	var body container.ExecStartRequest
	if err := readJSON(r, &body); err != nil {
		return err
	}
	var size [2]uint
	if body.ConsoleSize != nil && body.Tty && !before(r, "1.42") {
		size = *body.ConsoleSize
	}
	id := r.PathValue("id")
	x, err := e.m.Processes.Inspect(id)
	if err != nil {
		return err
	}
	if body.Detach {
		if err := e.m.Processes.Start(r.Context(), id, size); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
	at, err := e.m.Processes.Attach(id)
	if err != nil {
		return err
	}
	defer at.Close()
	p, err := hijack(w, r, body.Tty) // as the client says: it is who takes the frames apart
	if err != nil {
		return err
	}
	defer p.conn.Close()
	p.stdin, p.stdout, p.stderr = x.Config.AttachStdin, x.Config.AttachStdout, x.Config.AttachStderr
	if p.endInput = !x.Config.Tty; x.Config.Tty {
		if p.detach, err = detachKeys(x.Config.DetachKeys); err != nil {
			return err
		}
	}
	if err := e.m.Processes.Start(r.Context(), id, size); err != nil {
		p.fail(err)
		return nil
	}
	p.join(at)
	return nil
}

func (e *execAPI) resize(w http.ResponseWriter, r *http.Request) error {
	h, width, err := sizeOf(r)
	if err != nil {
		return err
	}
	if err := e.m.Processes.Resize(r.Context(), r.PathValue("id"), h, width); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (e *execAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	x, err := e.m.Processes.Inspect(r.PathValue("id"))
	if err != nil {
		return err
	}
	out := container.ExecInspectResponse{
		ID: x.ID, Running: x.Running, ExitCode: x.ExitCode, Pid: x.Pid, ContainerID: x.Container, CanRemove: x.ExitCode != nil,
		OpenStdin: x.Config.AttachStdin, OpenStdout: x.Config.AttachStdout, OpenStderr: x.Config.AttachStderr,
		DetachKeys:    []byte(x.Config.DetachKeys),
		ProcessConfig: &container.ExecProcessConfig{Tty: x.Config.Tty, User: x.Config.User, Privileged: &x.Config.Privileged},
	}
	if args := x.Config.Args; len(args) > 0 {
		out.ProcessConfig.Entrypoint, out.ProcessConfig.Arguments = args[0], args[1:]
	}
	return writeJSON(w, http.StatusOK, out)
}
