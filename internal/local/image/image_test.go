package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func writeProgram(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBuild(t *testing.T) {
	program := writeProgram(t, t.TempDir(), "hello", "a program")
	path := filepath.Join(t.TempDir(), "hello.tar")
	labels := map[string]string{"org.opencontainers.image.version": "v1"}
	if err := Build(path, "localhost/keyturn/hello:1", program, Config{User: "65532", Labels: labels}); err != nil {
		t.Fatal(err)
	}
	img := unpack(t, path)
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Config.Entrypoint, []string{"/hello"}) || config.OS != "linux" {
		t.Errorf("entry point is %v on %s", config.Config.Entrypoint, config.OS)
	}
	if config.Config.User != "65532" || !maps.Equal(config.Config.Labels, labels) {
		t.Errorf("user %q, labels %v", config.Config.User, config.Config.Labels)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
	checkMediaType(t, layers[0])
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	files := tar.NewReader(content)
	header, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(files)
	if err != nil || header.Name != "hello" || header.Mode != 0o755 || string(text) != "a program" {
		t.Errorf("the layer has %s, mode %o, %q, %v", header.Name, header.Mode, text, err)
	}
	if _, err := files.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the program: %v", err)
	}
}

// checkMediaType wants the layer to be compressed as it says, which tools differ in how far they trust.
func checkMediaType(t *testing.T, layer v1.Layer) {
	t.Helper()
	kind, err := layer.MediaType()
	if err != nil || kind != types.OCILayer {
		t.Errorf("media type %s, %v; want %s", kind, err, types.OCILayer)
	}
	content, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if _, err := gzip.NewReader(content); err != nil {
		t.Errorf("a layer of type %s is not compressed by gzip: %v", kind, err)
	}
}

// unpack returns the only image of an OCI archive.
func unpack(t *testing.T, path string) v1.Image {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-xf", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%v, %v; want one image", manifest, err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestSameProgramSameArchive(t *testing.T) {
	var archives [][]byte
	for i := range 2 {
		program := writeProgram(t, t.TempDir(), "hello", "a program")
		setTime(t, program, time.Unix(int64(1000000*i), 0))
		path := filepath.Join(t.TempDir(), "hello.tar")
		if err := Build(path, "localhost/keyturn/hello:1", program, Config{}); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, raw)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of one program differ")
	}
}

func TestEnsureArchives(t *testing.T) {
	bin, dir := t.TempDir(), filepath.Join(t.TempDir(), "images")
	if err := EnsureArchives(dir, bin); err == nil {
		t.Error("no error although there is no pause program")
	}
	writeProgram(t, bin, "keyturn-pause", "one")
	first := ensured(t, dir, bin)
	if found, err := filepath.Glob(filepath.Join(dir, "*.tar")); err != nil || len(found) != 1 {
		t.Errorf("there are %v, %v; want pause.tar only, as there is no probe program", found, err)
	}
	if !os.SameFile(ensured(t, dir, bin), first) {
		t.Error("the archive of the same program was built again")
	}
	writeProgram(t, bin, "keyturn-pause", "two")
	second := ensured(t, dir, bin)
	if os.SameFile(second, first) {
		t.Error("the archive of another program was not built")
	}
	if err := os.Remove(filepath.Join(dir, "pause.tar")); err != nil {
		t.Fatal(err)
	}
	ensured(t, dir, bin)
}

// Clocks say nothing: a program may have the time of its archive, of long ago, or of tomorrow.
func TestArchivesGoByContent(t *testing.T) {
	bin, dir := t.TempDir(), filepath.Join(t.TempDir(), "images")
	program := writeProgram(t, bin, "keyturn-pause", "0")
	before := ensured(t, dir, bin)
	for i, when := range []time.Time{before.ModTime(), time.Unix(1, 0), time.Now().Add(24 * time.Hour)} {
		writeProgram(t, bin, "keyturn-pause", strconv.Itoa(i+1))
		setTime(t, program, when)
		after := ensured(t, dir, bin)
		if os.SameFile(after, before) {
			t.Errorf("the archive of another program of %s was not built", when)
		}
		setTime(t, program, when.Add(time.Hour))
		if !os.SameFile(ensured(t, dir, bin), after) {
			t.Errorf("the archive was built again for the time of its program")
		}
		before = after
	}
}

func setTime(t *testing.T, path string, when time.Time) {
	t.Helper()
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
}

// ensured ensures the archives, and returns which file pause.tar is then.
func ensured(t *testing.T, dir, bin string) os.FileInfo {
	t.Helper()
	if err := EnsureArchives(dir, bin); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "pause.tar"))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestBuildIndex packs a program of two architectures, which are one image for those who pull it.
func TestBuildIndex(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hello.tar")
	programs := []Built{
		{"amd64", writeProgram(t, t.TempDir(), "hello", "a program")}, {"arm64", writeProgram(t, t.TempDir(), "hello",
			"another")},
	}
	if err := BuildIndex(path, "localhost/keyturn/hello:1", programs, Config{User: "65532"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-xf", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	archive, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(archive); err != nil {
		t.Error(err)
	}
	top, err := archive.IndexManifest()
	if err != nil || len(top.Manifests) != 1 ||
		top.Manifests[0].Annotations[nameAnnotation] != "localhost/keyturn/hello:1" {
		t.Fatalf("the archive has %+v, %v", top, err)
	}
	index, err := archive.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	all, err := index.IndexManifest()
	if err != nil || len(all.Manifests) != 2 {
		t.Fatalf("the index has %+v, %v", all, err)
	}
	for i, m := range all.Manifests {
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil || m.Platform.String() != "linux/"+programs[i].Architecture ||
			config.Architecture != programs[i].Architecture {
			t.Errorf("image %d is for %s, and its configuration for %s: %v", i, m.Platform, config.Architecture, err)
		}
	}
}
