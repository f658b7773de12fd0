package sbom

import (
	"encoding/json"
	"strings"

	"github.com/package-url/packageurl-go"
)

// npmPackage is what we want of a package.json. Old packages have objects and lists where new ones
// have texts, so those fields are looked at one by one.
type npmPackage struct {
	Name     string
	Version  string
	License  json.RawMessage
	Licenses json.RawMessage
	Author   json.RawMessage
	Homepage json.RawMessage
}

// readNpm reads an installed package. See https://docs.npmjs.com/cli/configuring-npm/package-json.
func readNpm(f *file) ([]component, error) {
	b, err := f.bytes()
	if err != nil {
		return nil, err
	}
	var p npmPackage
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	if p.Name == "" || p.Version == "" {
		return nil, nil // a stub that sets a folder's module type
	}
	scope, name, scoped := strings.Cut(p.Name, "/")
	if !scoped {
		scope, name = "", p.Name
	}
	licence := textOr(p.License, "type")
	if licence == "" {
		licence = npmLicences(p.Licenses)
	}
	return []component{{
		kind:       packageurl.TypeNPM,
		namespace:  scope,
		name:       name,
		version:    p.Version,
		licences:   []string{licence},
		maintainer: npmAuthor(p.Author),
		homepage:   textOr(p.Homepage, "url"),
	}}, nil
}

// textOr returns raw as a text, or the text in its field if raw is an object.
func textOr(raw json.RawMessage, field string) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) == nil {
		if json.Unmarshal(object[field], &text) == nil {
			return text
		}
	}
	return ""
}

func npmAuthor(raw json.RawMessage) string {
	if name, mail := textOr(raw, "name"), textOr(raw, "email"); name != mail {
		return author(name, mail)
	}
	return textOr(raw, "name") // "name <mail> (page)", in one text
}

// npmLicences joins the list of old packages; npm's documentation has them as alternatives.
func npmLicences(raw json.RawMessage) string {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return textOr(raw, "type")
	}
	var names []string
	for _, l := range list {
		if name := textOr(l, "type"); name != "" {
			names = append(names, name)
		}
	}
	return strings.Join(names, " OR ")
}
