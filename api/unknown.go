package api

import (
	"reflect"
	"strings"
)

// unknown finds a value in decoded JSON that type t has no field for, and returns its path. Zero
// values count as absent: clients send every field they know.
func unknown(path string, v any, t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if f := unknownKey(path+"."+key, key, value, t); f != "" {
				return f
			}
		}
	case []any:
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
			return ""
		}
		for _, e := range v {
			if f := unknown(path, e, t.Elem()); f != "" {
				return f
			}
		}
	}
	return ""
}

func unknownKey(path, key string, value any, t reflect.Type) string {
	switch t.Kind() {
	case reflect.Map:
		return unknown(path, value, t.Elem())
	case reflect.Struct:
		f, ok := jsonField(t, key)
		if ok {
			return unknown(path, value, f)
		}
		if !isZero(value) {
			return path
		}
	}
	return ""
}

// jsonField finds the type of the field that encoding/json would fill from key.
func jsonField(t reflect.Type, key string) (reflect.Type, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if found, ok := jsonField(f.Type, key); ok {
				return found, true
			}
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if name == key {
			return f.Type, true
		}
	}
	return nil, false
}

func isZero(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		for _, e := range v {
			if !isZero(e) {
				return false
			}
		}
		return true
	case map[string]any:
		for _, e := range v {
			if !isZero(e) {
				return false
			}
		}
		return true
	}
	return false
}
