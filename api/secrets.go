package api

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/runner/cluster"
)

// Secrets and configs differ in what SwarmKit calls them, and in that a secret's data never comes back.

func findSecret(ctx context.Context, m cluster.Manager, ref string) (*swarmapi.Secret, error) {
	return pick("secret", ref, func() (*swarmapi.Secret, error) {
		got, err := m.GetSecret(ctx, &swarmapi.GetSecretRequest{SecretID: ref})
		if err != nil {
			return nil, err
		}
		return got.Secret, nil
	}, func(names, prefixes []string) ([]*swarmapi.Secret, error) {
		got, err := m.ListSecrets(ctx, &swarmapi.ListSecretsRequest{
			Filters: &swarmapi.ListSecretsRequest_Filters{Names: names, IDPrefixes: prefixes},
		}, large())
		if err != nil {
			return nil, err
		}
		return got.Secrets, nil
	})
}

// knownFilters are those of both lists.
func knownFilters(r *http.Request) (filters, error) {
	f, err := parseFilters(r)
	if err != nil {
		return nil, err
	}
	return f, f.only("name", "names", "id", "label")
}

func (s *Swarm) secrets(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	f, err := knownFilters(r)
	if err != nil {
		return err
	}
	got, err := m.ListSecrets(r.Context(), &swarmapi.ListSecretsRequest{Filters: &swarmapi.ListSecretsRequest_Filters{
		Names: f.values("names"), NamePrefixes: f.values("name"), IDPrefixes: f.values("id"), Labels: pairs(f.values("label")),
	}}, large())
	if err != nil {
		return err
	}
	all := make([]swarm.Secret, 0, len(got.Secrets))
	for _, found := range got.Secrets {
		all = append(all, convert.SecretFromGRPC(found))
	}
	return writeJSON(w, http.StatusOK, all)
}

func (s *Swarm) createSecret(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	var spec swarm.SecretSpec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	converted := convert.SecretSpecToGRPC(spec)
	made, err := m.CreateSecret(r.Context(), &swarmapi.CreateSecretRequest{Spec: &converted})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, swarm.SecretCreateResponse{ID: made.Secret.ID})
}

func (s *Swarm) secret(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	found, err := findSecret(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, convert.SecretFromGRPC(found))
}

func (s *Swarm) updateSecret(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	var spec swarm.SecretSpec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	version, err := versionOf(r, "secret")
	if err != nil {
		return err
	}
	found, err := findSecret(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	converted := convert.SecretSpecToGRPC(spec)
	_, err = m.UpdateSecret(r.Context(), &swarmapi.UpdateSecretRequest{SecretID: found.ID, SecretVersion: version, Spec: &converted})
	return done(w, err)
}

func (s *Swarm) removeSecret(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	found, err := findSecret(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	if _, err := m.RemoveSecret(r.Context(), &swarmapi.RemoveSecretRequest{SecretID: found.ID}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func findConfig(ctx context.Context, m cluster.Manager, ref string) (*swarmapi.Config, error) {
	return pick("config", ref, func() (*swarmapi.Config, error) {
		got, err := m.GetConfig(ctx, &swarmapi.GetConfigRequest{ConfigID: ref})
		if err != nil {
			return nil, err
		}
		return got.Config, nil
	}, func(names, prefixes []string) ([]*swarmapi.Config, error) {
		got, err := m.ListConfigs(ctx, &swarmapi.ListConfigsRequest{
			Filters: &swarmapi.ListConfigsRequest_Filters{Names: names, IDPrefixes: prefixes},
		}, large())
		if err != nil {
			return nil, err
		}
		return got.Configs, nil
	})
}

func (s *Swarm) configs(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	f, err := knownFilters(r)
	if err != nil {
		return err
	}
	got, err := m.ListConfigs(r.Context(), &swarmapi.ListConfigsRequest{Filters: &swarmapi.ListConfigsRequest_Filters{
		Names: f.values("names"), NamePrefixes: f.values("name"), IDPrefixes: f.values("id"), Labels: pairs(f.values("label")),
	}}, large())
	if err != nil {
		return err
	}
	all := make([]swarm.Config, 0, len(got.Configs))
	for _, found := range got.Configs {
		all = append(all, convert.ConfigFromGRPC(found))
	}
	return writeJSON(w, http.StatusOK, all)
}

func (s *Swarm) createConfig(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	var spec swarm.ConfigSpec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	converted := convert.ConfigSpecToGRPC(spec)
	made, err := m.CreateConfig(r.Context(), &swarmapi.CreateConfigRequest{Spec: &converted})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, swarm.ConfigCreateResponse{ID: made.Config.ID})
}

func (s *Swarm) config(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	found, err := findConfig(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, convert.ConfigFromGRPC(found))
}

func (s *Swarm) updateConfig(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	var spec swarm.ConfigSpec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	version, err := versionOf(r, "config")
	if err != nil {
		return err
	}
	found, err := findConfig(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	converted := convert.ConfigSpecToGRPC(spec)
	_, err = m.UpdateConfig(r.Context(), &swarmapi.UpdateConfigRequest{ConfigID: found.ID, ConfigVersion: version, Spec: &converted})
	return done(w, err)
}

func (s *Swarm) removeConfig(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	found, err := findConfig(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	if _, err := m.RemoveConfig(r.Context(), &swarmapi.RemoveConfigRequest{ConfigID: found.ID}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
