package logs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/docker/go-units"

	"github.com/gantry-build/gantry/internal/fault"
)

// The drivers, as --log-driver names them.
const (
	JSONFile = "json-file"
	Local    = "local" // as json-file, with a limit and packed
	Journald = "journald"
	Syslog   = "syslog"
	None     = "none"
)

// Options say how a log is kept, and where it goes besides.
type Options struct {
	MaxSize  int64 // bytes of one file; 0 is no limit
	MaxFiles int   // files kept, at least 1
	Compress bool  // files that are not written any more

	NonBlocking bool  // lines are dropped rather than that a container waits for the disk or a server
	Buffer      int64 // bytes of lines that wait, with NonBlocking

	Attrs   map[string]string // of each line
	Forward Forwarder         // gets each line, too; nil: nobody
}

// Forwarder passes lines on. It is used by one goroutine at a time.
type Forwarder interface {
	Check() error // whether it can, before a container starts
	Send(Entry) error
	Close() error
}

// Source is the container whose log it is.
type Source struct {
	ID, Name, Image, ImageID string // the name without slash
	Labels                   map[string]string
	Env                      []string
}

// common are the options that tell of the source, and of the writer's patience.
var common = []string{"mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag"}

// known are the options of each driver.
var known = map[string][]string{
	JSONFile: append([]string{"max-size", "max-file", "compress"}, common...),
	Local:    {"max-size", "max-file", "compress", "mode", "max-buffer-size"},
	Journald: append([]string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}, common...),
	Syslog: append([]string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress", "syslog-address", "syslog-facility",
		"syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"}, common...),
	None: {"mode", "max-buffer-size"},
}

// ParseOptions reads the options of a driver, the empty name being json-file. One that it does not know is an
// errdefs.ErrInvalidArgument, as is a value that means nothing.
func ParseOptions(driver string, config map[string]string, of Source) (Options, error) {
	if driver == "" {
		driver = JSONFile
	}
	o := Options{MaxFiles: 1, Buffer: 1 << 20}
	for _, k := range slices.Sorted(maps.Keys(config)) {
		if !slices.Contains(known[driver], k) {
			return o, fault.Invalid("unknown log opt '%s' for %s log driver", k, driver)
		}
	}
	if driver != JSONFile {
		o.MaxSize, o.MaxFiles, o.Compress = 20<<20, 5, true
	}
	for k, v := range config {
		if err := o.set(strings.TrimPrefix(k, "cache-"), v); err != nil {
			return o, fault.Invalid("log option %s=%s: %v", k, v, err)
		}
	}
	if o.MaxFiles > 1 && o.MaxSize == 0 {
		return o, fault.Invalid("log option max-file needs max-size")
	}
	if o.Compress && o.MaxSize == 0 {
		return o, fault.Invalid("log option compress needs max-size and max-file")
	}
	if config["max-buffer-size"] != "" && !o.NonBlocking {
		return o, fault.Invalid("log option max-buffer-size is only supported with mode=non-blocking")
	}
	tag, err := of.tag(config["tag"])
	if err != nil {
		return o, err
	}
	if o.Attrs, err = of.attrs(config); err != nil {
		return o, err
	}
	switch driver {
	case JSONFile:
		if config["tag"] != "" {
			o.Attrs = with(o.Attrs, "tag", tag)
		}
	case Journald:
		o.Forward = newJournal(of, tag, o.Attrs)
	case Syslog:
		o.Forward, err = newSyslog(config, tag)
	}
	return o, err
}

// set reads one of the options about how lines are kept.
func (o *Options) set(k, v string) (err error) {
	switch k {
	case "max-size":
		if o.MaxSize = 0; v != "-1" {
			o.MaxSize, err = units.FromHumanSize(v)
		}
	case "max-file":
		o.MaxFiles, err = strconv.Atoi(v)
		if err == nil && o.MaxFiles < 1 {
			err = errors.New("it must be at least 1")
		}
	case "compress":
		o.Compress, err = strconv.ParseBool(v)
	case "mode":
		if o.NonBlocking = v == "non-blocking"; !o.NonBlocking && v != "" && v != "blocking" {
			err = errors.New("the mode is blocking or non-blocking")
		}
	case "max-buffer-size":
		o.Buffer, err = units.RAMInBytes(v)
	case "disabled":
		_, err = strconv.ParseBool(v)
	}
	return err
}

// tag is what a container is called where its lines go, by a template of Docker's: {{.Name}} and the like.
func (s Source) tag(text string) (string, error) {
	if text == "" {
		text = "{{.ID}}"
	}
	t, err := template.New("tag").Parse(text)
	var out bytes.Buffer
	if err == nil {
		err = t.Execute(&out, map[string]string{
			"ID": s.ID[:min(12, len(s.ID))], "FullID": s.ID, "Name": s.Name, "ImageName": s.Image,
			"ImageID":     strings.TrimPrefix(s.ImageID, "sha256:")[:min(12, len(strings.TrimPrefix(s.ImageID, "sha256:")))],
			"ImageFullID": s.ImageID, "DaemonName": "gantry",
		})
	}
	if err != nil {
		return "", fault.Invalid("log option tag=%s: %v", text, err)
	}
	return out.String(), nil
}

// attrs are the labels and variables that the options name.
func (s Source) attrs(config map[string]string) (map[string]string, error) {
	env := map[string]string{}
	for _, e := range s.Env {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	var out map[string]string
	for _, from := range []struct {
		option string
		values map[string]string
	}{{"labels", s.Labels}, {"env", env}} {
		for _, k := range strings.Split(config[from.option], ",") {
			if v, ok := from.values[strings.TrimSpace(k)]; ok {
				out = with(out, strings.TrimSpace(k), v)
			}
		}
		pattern := config[from.option+"-regex"]
		if pattern == "" {
			continue
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fault.Invalid("log option %s-regex: %v", from.option, err)
		}
		for k, v := range from.values {
			if re.MatchString(k) {
				out = with(out, k, v)
			}
		}
	}
	return out, nil
}

func with(m map[string]string, k, v string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// Kept tells whether the options of a driver ask to keep nothing here.
func Kept(driver string, config map[string]string) bool {
	off, _ := strconv.ParseBool(config["cache-disabled"])
	return driver != None && !off
}

var errFormat = fmt.Errorf("it is one of rfc3164, rfc5424 and rfc5424micro")
