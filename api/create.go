package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/spec"
)

// create makes a container. The runner's option types carry the API's JSON names, so a request is
// translated by its JSON, and what has no counterpart is refused by name.
func (c *containersAPI) create(w http.ResponseWriter, r *http.Request) error {
	var body createBody
	err := decodeJSON(r, &body)
	if errors.Is(err, io.EOF) || err == nil && r.ContentLength == 0 {
		return fault.Invalid("invalid JSON: EOF")
	}
	if err != nil {
		return err
	}
	if n := body.NetworkingConfig; n != nil && len(n.EndpointsConfig) > 1 && before(r, "1.44") {
		return fault.Invalid("Container cannot be created with multiple network endpoints")
	}
	if err := asOfItsTime(r, &body.CreateRequest, body.MacAddress); err != nil {
		return err
	}
	req, err := createRequest(body.CreateRequest)
	if err != nil {
		return err
	}
	req.Name = r.URL.Query().Get("name")
	if req.Platform, err = platformOf(r); err != nil {
		return err
	}
	id, warnings, err := c.m.Create(r.Context(), req)
	if err != nil {
		return err
	}
	if warnings == nil {
		warnings = []string{}
	}
	return writeJSON(w, http.StatusCreated, container.CreateResponse{ID: id, Warnings: warnings})
}

// createBody is the API's, with what it had before version 1.44.
type createBody struct {
	container.CreateRequest
	MacAddress string
}

func createRequest(body container.CreateRequest) (req runner.CreateRequest, err error) {
	if body.Config == nil {
		return req, fault.Invalid("config cannot be empty in order to create a container")
	}
	if body.Config.Image == "" {
		return req, fault.Invalid("no image was given")
	}
	if _, err := reference.ParseAnyReference(body.Config.Image); err != nil {
		return req, fault.Invalid("%v", err)
	}
	if err := spec.CheckEnv(body.Config.Env); err != nil {
		return req, err
	}
	if err := translate("Config", body.Config, &req.Config); err != nil {
		return req, err
	}
	if body.HostConfig != nil {
		if err := translate("HostConfig", body.HostConfig, &req.Host); err != nil {
			return req, err
		}
	}
	if body.NetworkingConfig == nil {
		return req, nil
	}
	for name, ep := range body.NetworkingConfig.EndpointsConfig {
		a, err := attachmentOf(name, ep)
		if err != nil {
			return req, err
		}
		req.Networks = append(req.Networks, a)
	}
	return req, nil
}

// translate copies from to the equally named fields of to. A value without a field is an
// errdefs.ErrInvalidArgument that names it.
func translate(name string, from, to any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return fault.Invalid("%s: %v", name, err)
	}
	var generic any
	if err := json.Unmarshal(data, &generic); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if field := unknown(name, generic, reflect.TypeOf(to)); field != "" {
		return fault.Invalid("%s is not supported", field)
	}
	if err := json.Unmarshal(data, to); err != nil {
		return fault.Invalid("%s: %v", name, err)
	}
	return nil
}
