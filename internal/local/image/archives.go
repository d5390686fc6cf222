package image

import (
	"github.com/keyturn/keyturn/internal/hint"

	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// References of the images that machines get.
const (
	// Pause holds the namespaces of a pod.
	Pause = "localhost/keyturn/pause:1"
	// Probe is a workload that uses every kind of token.
	Probe = "localhost/keyturn/probe:dev"
)

// archive is an image that machines get: what it is made of, and whether a machine works without.
type archive struct {
	file, reference, program string
	optional                 bool
}

var archives = []archive{
	{file: "pause.tar", reference: Pause, program: "keyturn-pause"},
	{file: "probe.tar", reference: Probe, program: "keyturn-probe", optional: true},
}

// EnsureArchives builds, in dir, the archives of the images that machines get, from the programs in binDir. An archive
// of the same program stays as it is.
func EnsureArchives(dir, binDir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("building images: %w", err)
	}
	for _, a := range archives {
		err := a.ensure(dir, filepath.Join(binDir, a.program))
		if errors.Is(err, fs.ErrNotExist) && a.optional {
			continue
		}
		if err != nil {
			return hint.Errorf("run `make build`", "building image %s: %w", a.reference, err)
		}
	}
	return nil
}

// ensure compares the program with the digest that was kept when the archive was built: reading a program takes
// milliseconds, packing and importing it seconds.
func (a archive) ensure(dir, program string) error {
	path, kept := filepath.Join(dir, a.file), filepath.Join(dir, a.file+".source")
	source, err := a.source(program)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(kept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(path); err == nil && string(before) == source {
		return nil
	}
	if err := build(path, a.reference, program, Config{}); err != nil {
		return err
	}
	// Crash here: the archive is new and its digest is not, so the next call builds it again. The same happens if the
	// program was replaced since its digest was taken.
	return atomicfile.Write(kept, []byte(source))
}

// source is a line that names the image and the digest of its program.
func (a archive) source(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", program, err)
	}
	return fmt.Sprintf("%s sha256:%x\n", a.reference, digest.Sum(nil)), nil
}
