package api

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/runner/volume"
)

// raw asks a daemon without the client's own view of versions.
func raw(t *testing.T, socket, method, path, body string) (status int, answer []byte) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if answer, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

// Clients of every age get the fields and defaults of their time.
func TestOldClients(t *testing.T) {
	dir := testDir(t)
	d, err := startDaemon(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sweep(t, d); d.Close() })
	writeImage(t, d.store)
	socket := filepath.Join(dir, "sock")
	const mac = "02:00:00:00:00:77"
	body := `{"Image":"guest","Cmd":["tick"],"MacAddress":"` + mac + `","HostConfig":{"Memory":67108864,"Annotations":{"a":"b"}}}`
	if status, answer := raw(t, socket, "POST", "/v1.40/containers/create?name=old", body); status != http.StatusCreated {
		t.Fatalf("%d %s", status, answer)
	}
	if status, answer := raw(t, socket, "POST", "/v1.40/containers/old/start", ""); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, answer)
	}
	var in struct {
		NetworkSettings struct {
			IPAddress, MacAddress string
			Networks              map[string]struct{ IPAddress, MacAddress string }
		}
		HostConfig struct {
			Memory      int64
			Annotations map[string]string
		}
		ImageManifestDescriptor any
	}
	_, answer := raw(t, socket, "GET", "/v1.40/containers/old/json", "")
	if err := json.Unmarshal(answer, &in); err != nil {
		t.Fatal(err)
	}
	if n := in.NetworkSettings; n.IPAddress == "" || n.IPAddress != n.Networks["bridge"].IPAddress || n.MacAddress != mac ||
		in.HostConfig.Memory != 64<<20 || len(in.HostConfig.Annotations) > 0 || in.ImageManifestDescriptor != nil {
		t.Errorf("%s", answer)
	}
	in.NetworkSettings.IPAddress, in.NetworkSettings.MacAddress = "", ""
	_, answer = raw(t, socket, "GET", "/containers/old/json", "")
	if err := json.Unmarshal(answer, &in); err != nil || in.NetworkSettings.IPAddress != "" || in.ImageManifestDescriptor == nil {
		t.Errorf("for a client of today: %s, %v", answer, err)
	}
	for path, want := range map[string]string{"/v1.41": "named", "/v1.42": ""} {
		if _, err := d.runner.CreateVolume(volume.Volume{Name: "named"}); err != nil {
			t.Fatal(err)
		}
		if _, answer := raw(t, socket, "POST", path+"/volumes/prune", ""); strings.Contains(string(answer), "named") != (want != "") {
			t.Errorf("%s prunes %s", path, answer)
		}
	}
	subpath := `{"Image":"guest","HostConfig":{"Mounts":[{"Type":"volume","Source":"v","Target":"/v","VolumeOptions":{"Subpath":"s"}}]}}`
	if status, answer := raw(t, socket, "POST", "/v1.44/containers/create", subpath); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, answer)
	}
}
