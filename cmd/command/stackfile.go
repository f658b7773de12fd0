package command

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"github.com/gantry-build/gantry/runner/cluster/placement"
)

// What a service's keys are to a cluster. One that is in no list, and not moved, can't be honoured.
var (
	stackKeys = []string{
		"cap_add", "cap_drop", "command", "configs", "deploy", "dns", "dns_search", "entrypoint", "environment", "extra_hosts",
		"healthcheck", "hostname", "image", "init", "isolation", "labels", "logging", "networks", "oom_score_adj", "ports",
		"read_only", "secrets", "stdin_open", "stop_grace_period", "stop_signal", "sysctls", "tty", "ulimits", "user", "volumes",
		"working_dir",
	}
	// fileKeys have done their work when the file has been read, or are about something else than what runs.
	fileKeys = []string{
		"annotations", "attach", "build", "develop", "env_file", "expose", "extends", "label_file", "profiles", "pull_policy",
	}
	// stackAdvice is what the user can write for keys that are often met.
	stackAdvice = map[string]string{
		"container_name": "its tasks' containers are named after the service, the task and its ID",
		"links":          "services of one network reach each other by their names",
		"platform":       "nodes are chosen by the platforms that the image has; deploy.placement.constraints narrows them",
		"privileged":     "cap_add gives single capabilities",
		"shm_size":       "a volume of type tmpfs at /dev/shm has a size",
	}
)

// lowering is the work on one project.
type lowering struct {
	project  *types.Project
	file     func(name string, data []byte) (path string, _ error)
	warnings []string
	errs     []error
}

func (l *lowering) refuse(key, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf(key+": "+format, args...))
}

// lowerStack turns a project into the document that the Docker CLI's reader of stacks takes (docker/cli, compose/schema,
// v3.13). file keeps what has no file of its own. Warnings and errors begin with the path of the key that they are about.
func lowerStack(p *types.Project, file func(string, []byte) (string, error)) (_ map[string]any, warnings []string, _ []error) {
	l := &lowering{project: p, file: file}
	doc, err := generic(p)
	if err != nil {
		return nil, nil, []error{err}
	}
	delete(doc, "name")
	doc["version"] = "3.13"
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		services := doc["services"].(map[string]any)
		services[name] = l.service(name, p.Services[name], services[name].(map[string]any), doc)
	}
	for _, kind := range []string{"networks", "volumes", "secrets", "configs"} {
		for name, v := range object(doc[kind]) {
			entry := object(v)
			if entry["name"] == p.Name+"_"+name {
				delete(entry, "name") // the stack's own name may have capitals
			}
			l.source(kind, name, entry)
		}
	}
	for _, key := range []string{"models", "include"} {
		if doc[key] != nil {
			l.refuse(key, "a stack has none")
		}
	}
	slices.SortFunc(l.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return doc, l.warnings, l.errs
}

// generic is v as YAML has it.
func generic(p *types.Project) (map[string]any, error) {
	data, err := p.MarshalYAML()
	if err != nil {
		return nil, err
	}
	doc := map[string]any{}
	return doc, yaml.Unmarshal(data, &doc)
}

// object is v if it is one, else one that is in no document.
func object(v any) map[string]any {
	if m, ok := v.(map[string]any); ok {
		return m
	}
	return map[string]any{}
}

// within is the object at a key, made if it is not there.
func within(m map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		next, ok := m[k].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[k] = next
		}
		m = next
	}
	return m
}

// source has the content of a secret or config come from a file, and refuses what a network can't be.
func (l *lowering) source(kind, name string, entry map[string]any) {
	key := kind + "." + name
	content, inline := "", false
	switch kind {
	case "networks":
		for _, k := range []string{"enable_ipv6", "enable_ipv4"} {
			if entry[k] != nil {
				l.refuse(key+"."+k, "a stack's network has no such key")
			}
		}
		for _, c := range list(object(entry["ipam"])["config"]) {
			for k := range object(c) {
				if k != "subnet" {
					l.refuse(key+".ipam.config", "%s: a stack's network has no such key", k)
				}
			}
		}
		return
	case "secrets":
		s := l.project.Secrets[name]
		content, inline = s.Content, s.Content != ""
		if s.Environment != "" {
			content, inline = l.variable(key, s.Environment)
		}
	case "configs":
		c := l.project.Configs[name]
		content, inline = c.Content, c.Content != ""
		if c.Environment != "" {
			content, inline = l.variable(key, c.Environment)
		}
	}
	delete(entry, "content")
	delete(entry, "environment")
	if !inline {
		return
	}
	path, err := l.file(name, []byte(content))
	if err != nil {
		l.refuse(key, "%w", err)
	}
	entry["file"] = path
}

func (l *lowering) variable(key, name string) (string, bool) {
	v, ok := l.project.Environment[name]
	if !ok {
		l.refuse(key+".environment", "the variable %s is not set", name)
	}
	return v, ok
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// service turns one service's keys into those of a stack.
func (l *lowering) service(name string, s types.ServiceConfig, in, doc map[string]any) map[string]any {
	key := "services." + name
	out := map[string]any{}
	for _, k := range stackKeys {
		if v := in[k]; v != nil {
			out[k] = v
		}
	}
	for k, v := range in {
		switch {
		case v == nil || slices.Contains(stackKeys, k):
		case strings.HasPrefix(k, "x-") || slices.Contains(fileKeys, k) || l.move(k, s, out):
		default:
			hint := cmp.Or(stackAdvice[k], "remove it, or run the file with gantry compose")
			l.refuse(key+"."+k, "a service of a cluster has no such key; %s", hint)
		}
	}
	if s.Image == "" {
		l.refuse(key, "no image: name one, or have it built by gantry stack deploy --build")
	}
	l.network(key, s, out, doc)
	l.deploy(key, s, out)
	for dep, how := range s.DependsOn {
		if how.Condition != types.ServiceConditionStarted {
			l.warnings = append(l.warnings, fmt.Sprintf("%s.depends_on: a cluster starts services in any order, and does not wait for %s",
				key, dep))
		}
	}
	for _, v := range list(out["ports"]) {
		l.port(key+".ports", object(v))
	}
	for _, kind := range []string{"secrets", "configs"} {
		for _, v := range list(out[kind]) {
			ref := object(v)
			if mode, ok := ref["mode"].(string); ok {
				n, err := strconv.ParseUint(mode, 8, 32)
				if err != nil {
					l.refuse(key+"."+kind, "mode %q: want octal digits", mode)
				}
				ref["mode"] = int(n)
			}
		}
	}
	return out
}

// move honours what a stack has in another place than a Compose file. It says false to what it does not know.
func (l *lowering) move(k string, s types.ServiceConfig, out map[string]any) bool {
	switch k {
	case "depends_on", "network_mode", "scale": // later
	case "restart":
		if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
			break // which is for clusters
		}
		condition, attempts, _ := strings.Cut(s.Restart, ":")
		policy := within(out, "deploy", "restart_policy")
		policy["condition"] = map[string]string{"no": "none", "on-failure": "on-failure"}[condition]
		if policy["condition"] == "" {
			policy["condition"] = "any"
		}
		if n, err := strconv.Atoi(attempts); err == nil {
			policy["max_attempts"] = n
		}
	case "cpus":
		within(out, "deploy", "resources", "limits")["cpus"] = fmt.Sprint(s.CPUS)
	case "mem_limit":
		within(out, "deploy", "resources", "limits")["memory"] = strconv.FormatInt(int64(s.MemLimit), 10)
	case "pids_limit":
		within(out, "deploy", "resources", "limits")["pids"] = s.PidsLimit
	case "mem_reservation":
		within(out, "deploy", "resources", "reservations")["memory"] = strconv.FormatInt(int64(s.MemReservation), 10)
	case "tmpfs":
		for _, t := range s.Tmpfs {
			target, options, _ := strings.Cut(t, ":")
			if options != "" {
				return false
			}
			out["volumes"] = append(list(out["volumes"]), map[string]any{"type": "tmpfs", "target": target})
		}
	default:
		return false
	}
	return true
}

// network joins a service with a network_mode to the node's own network of this name.
func (l *lowering) network(key string, s types.ServiceConfig, out, doc map[string]any) {
	switch mode := s.NetworkMode; mode {
	case "":
	case "host", "none", "bridge":
		within(doc, "networks")[mode] = map[string]any{"external": true, "name": mode}
		out["networks"] = map[string]any{mode: nil}
	default:
		l.refuse(key+".network_mode", "%s: a service of a cluster can have host, none and bridge", mode)
	}
	for name, v := range object(out["networks"]) {
		for k := range object(v) {
			if k != "aliases" && k != "driver_opts" {
				l.refuse(key+".networks."+name+"."+k, "a service of a cluster has no such key")
			}
		}
	}
}

// deploy gives the part that is for clusters its types, and takes gantry's own key out of it.
func (l *lowering) deploy(key string, s types.ServiceConfig, out map[string]any) {
	if s.Scale != nil {
		within(out, "deploy")["replicas"] = *s.Scale
	}
	d, ok := out["deploy"].(map[string]any)
	if !ok {
		return
	}
	for _, kind := range []string{"limits", "reservations"} {
		r := object(object(d["resources"])[kind])
		if cpus, ok := r["cpus"]; ok {
			r["cpus"] = fmt.Sprint(cpus)
		}
		if r["devices"] != nil {
			l.refuse(key+".deploy.resources."+kind+".devices", "a service of a cluster has no such key; generic_resources are counted")
		}
	}
	for k, v := range d {
		if k == "x-gantry" {
			for option, value := range object(v) {
				allowed, is := value.(bool)
				if option != "emulate" || !is {
					l.refuse(key+".deploy.x-gantry", "%s: %v: want emulate: true or false", option, value)
					continue
				}
				within(out, "labels")[placement.EmulateLabel] = strconv.FormatBool(allowed)
			}
		}
		if strings.HasPrefix(k, "x-") {
			delete(d, k)
		}
	}
}

// port gives a published port its type.
func (l *lowering) port(key string, p map[string]any) {
	if ip := p["host_ip"]; ip != nil {
		l.refuse(key, "host_ip %v: a cluster publishes ports on all addresses of its nodes", ip)
	}
	delete(p, "name")
	delete(p, "app_protocol")
	published, ok := p["published"].(string)
	if !ok {
		return
	}
	n, err := strconv.ParseUint(published, 10, 16)
	if err != nil {
		l.refuse(key, "published %q: a cluster publishes single ports", published)
	}
	p["published"] = int(n)
}
