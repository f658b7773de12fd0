package frontend

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// Lines of a Dockerfile change an image's configuration as docker commit's do.
func TestChange(t *testing.T) {
	var cfg dockerspec.DockerOCIImageConfig
	cfg.Env = []string{"A=old", "B=kept"}
	cfg.Labels = map[string]string{"l": "kept"}
	before := cfg.Labels
	err := Change(&cfg, []string{
		`ENV A="new value" C=3`, "LABEL m=n", "EXPOSE 80 53/udp", "VOLUME /data", "WORKDIR /w", "USER 5:6", "STOPSIGNAL SIGINT",
		`ENTRYPOINT ["/e"]`, "CMD echo hello", "ONBUILD RUN x", "HEALTHCHECK --interval=5s CMD true",
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(cfg)
	const want = `{"User":"5:6","ExposedPorts":{"53/udp":{},"80/tcp":{}},"Env":["B=kept","A=new value","C=3"],"Entrypoint":["/e"],` +
		`"Cmd":["/bin/sh","-c","echo hello"],"Volumes":{"/data":{}},"WorkingDir":"/w","Labels":{"l":"kept","m":"n"},` +
		`"StopSignal":"SIGINT","Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000},"OnBuild":["RUN x"]}`
	if string(got) != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if len(before) != 1 {
		t.Errorf("the caller's labels have changed: %v", before)
	}
	for _, bad := range []string{"RUN x", "FROM x", "ENV", "BOGUS x", "COPY a b"} {
		if err := Change(&cfg, []string{bad}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), strings.Fields(bad)[0]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
