package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
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
	if err := Build(path, "localhost/keyturn/hello:1", program); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Config.Entrypoint, []string{"/hello"}) || config.OS != "linux" {
		t.Errorf("entry point is %v on %s", config.Config.Entrypoint, config.OS)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
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

func TestSameProgramSameArchive(t *testing.T) {
	var archives [][]byte
	for i := range 2 {
		program := writeProgram(t, t.TempDir(), "hello", "a program")
		when := time.Unix(int64(1000000*i), 0)
		if err := os.Chtimes(program, when, when); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "hello.tar")
		if err := Build(path, "localhost/keyturn/hello:1", program); err != nil {
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
	pause := writeProgram(t, bin, "keyturn-pause", "one")
	if err := EnsureArchives(dir, bin); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "pause.tar" {
		t.Errorf("there are %v, %v; want pause.tar only, as there is no probe program", entries, err)
	}
	archive := filepath.Join(dir, "pause.tar")
	first := identity(t, archive)
	if err := EnsureArchives(dir, bin); err != nil || identity(t, archive) != first {
		t.Errorf("an archive that is up to date was built again, %v", err)
	}
	later := time.Now().Add(time.Hour)
	writeProgram(t, bin, "keyturn-pause", "two")
	if err := os.Chtimes(pause, later, later); err != nil {
		t.Fatal(err)
	}
	if err := EnsureArchives(dir, bin); err != nil || identity(t, archive) == first {
		t.Errorf("the archive of a newer program was not built, %v", err)
	}
}

func identity(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.ModTime().String() + string(raw)
}
