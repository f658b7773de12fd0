package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// Whatever JSON a client sends, it gets a container's configuration or an error that is its own.
func FuzzCreateRequest(f *testing.F) {
	for _, s := range []string{
		`{"Image":"a","Env":["A=1"],"HostConfig":{"Memory":1,"PortBindings":{"80/tcp":[{"HostPort":"1"}]}}}`,
		`{"Image":"a","NetworkingConfig":{"EndpointsConfig":{"n":{"IPAMConfig":{"IPv4Address":"10.0.0.1"}}}}}`,
		`{"Image":"a","Healthcheck":{"Test":["CMD","x"],"Interval":1}}`,
		`{"Image":"a","HostConfig":{"Mounts":[{"Type":"bind","Source":"/","Target":"/x"}]}}`,
		`{"Image":"a:b@sha256:` + strings.Repeat("0", 64) + `","MacAddress":"02:00:00:00:00:01"}`, `null`, `[]`, `{"Image":`, ``,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := httptest.NewRequest("POST", "/v1.40/containers/create", strings.NewReader(text))
		r.Header.Set("Content-Type", "application/json")
		r = r.WithContext(withVersion(r.Context(), "1.40"))
		var body createBody
		err := decodeJSON(r, &body)
		if err == nil {
			err = asOfItsTime(r, &body.CreateRequest, body.MacAddress)
		}
		if err == nil {
			_, err = createRequest(body.CreateRequest)
		}
		if err != nil && !errors.Is(err, io.EOF) && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// Whatever is in a query, it is read, or is an error of the client's.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{
		`filters={"label":["a=b"],"until":["10m"],"dangling":{"true":true}}`, `since=1.5&until=2026-01-01`, `platform={"os":"linux"}`,
		`platform=linux/arm/v7&tail=all&t=3`, `filters={"a":`, `since=-1&until=99999999999999999999`, `h=1&w=2&detachKeys=ctrl-@`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", "/x", nil)
		r.URL = &url.URL{Path: "/x", RawQuery: query}
		_, err1 := parseFilters(r)
		_, err2 := timeOf(r, "since")
		_, err3 := platformsOf(r)
		_, err4 := logQuery(r)
		_, _, err5 := sizeOf(r)
		_, err6 := detachKeys(r.URL.Query().Get("detachKeys"))
		_, err7 := pruneOptions(r)
		_, err8 := moment(r.URL.Query().Get("until"))
		for _, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
			if err != nil && !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", query, err)
			}
		}
	})
}

// What is stored of a container is what the API shows of it.
func FuzzStored(f *testing.F) {
	f.Add(`{"Image":"a","Cmd":["x"],"HostConfig":{"RestartPolicy":{"Name":"always"}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var body container.CreateRequest
		if json.Unmarshal([]byte(text), &body) != nil || body.Config == nil {
			return
		}
		req, err := createRequest(body)
		if err != nil {
			return
		}
		var back container.Config
		if err := toAPI(req.Config, &back); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		var host container.HostConfig
		if err := toAPI(req.Host, &host); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
