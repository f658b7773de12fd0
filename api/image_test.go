package api

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	specsv1 "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
)

// writeImage makes guest:latest: this program, a user, a volume, and a file that is no program.
func writeImage(t *testing.T, s *cache.Store) {
	ctx := cache.WithNamespace(t.Context())
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	layer := tarOf(t, map[string]string{
		"guest": string(self), "noexec": "x", "data/seed": "from the image",
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1001:1002::/home/ann:/bin/sh\n", "etc/group": "staff:x:1002:\n",
	})
	cfg, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"rootfs": ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
		"config": map[string]any{
			"Entrypoint": []string{"/guest"}, "Cmd": []string{"echo", "default"}, "Env": []string{"GANTRY_TEST_GUEST=1"},
			"Volumes": map[string]struct{}{"/data": {}}, "ExposedPorts": map[string]struct{}{"8080/tcp": {}},
		},
	})
	ctx, done, err := s.Client.WithLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer done(context.WithoutCancel(ctx))
	put := func(media string, data []byte, labels map[string]string) ocispec.Descriptor {
		desc := ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(data), Size: int64(len(data))}
		err := content.WriteBlob(ctx, s.Client.ContentStore(), desc.Digest.String(), bytes.NewReader(data), desc,
			content.WithLabels(labels))
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	l := put(ocispec.MediaTypeImageLayer, layer, nil)
	c := put(ocispec.MediaTypeImageConfig, cfg, nil)
	m, _ := json.Marshal(ocispec.Manifest{
		Versioned: specsv1.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c,
		Layers: []ocispec.Descriptor{l},
	})
	target := put(ocispec.MediaTypeImageManifest, m, map[string]string{
		"containerd.io/gc.ref.content.config": c.Digest.String(), "containerd.io/gc.ref.content.l.0": l.Digest.String(),
	})
	_, err = s.Client.ImageService().Create(ctx, images.Image{Name: "docker.io/library/guest:latest", Target: target})
	if err != nil {
		t.Fatal(err)
	}
}

func tarOf(t *testing.T, files map[string]string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		mode := int64(0o644)
		if name == "guest" {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
