package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// References of the images that machines get.
const (
	// Pause holds the namespaces of a pod.
	Pause = "localhost/keyturn/pause:1"
	// Probe is a workload that uses every kind of token.
	Probe = "localhost/keyturn/probe:dev"
)

// archives are the images that machines get: what they are made of, and whether a machine works without.
var archives = []struct {
	file, reference, program string
	optional                 bool
}{
	{file: "pause.tar", reference: Pause, program: "keyturn-pause"},
	{file: "probe.tar", reference: Probe, program: "keyturn-probe", optional: true},
}

// EnsureArchives builds, in dir, the archives of the images that machines get, from the programs in binDir. An archive
// that is newer than its program stays as it is.
func EnsureArchives(dir, binDir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("building images: %w", err)
	}
	for _, a := range archives {
		program, path := filepath.Join(binDir, a.program), filepath.Join(dir, a.file)
		built, err := os.Stat(program)
		if errors.Is(err, fs.ErrNotExist) && a.optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("building image %s: %w\nhint: run `make build`", a.reference, err)
		}
		if packed, err := os.Stat(path); err == nil && packed.ModTime().After(built.ModTime()) {
			continue
		}
		if err := Build(path, a.reference, program); err != nil {
			return err
		}
	}
	return nil
}
