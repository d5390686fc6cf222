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

// References of the images on machines.
const (
	// Pause holds the namespaces of a pod.
	Pause = "localhost/keyturn/pause:1"
	// Probe is a workload that uses every kind of token.
	Probe = "localhost/keyturn/probe:dev"
)

// Archive is the image of one program, as a file.
type Archive struct {
	// File is its name, such as "pause.tar".
	File string
	// Reference is the reference of the image, and Program the name of its program.
	Reference, Program string
	// Optional means that machines work without it, and that it is omitted if the program is missing.
	Optional bool
	// Config is what the image has in addition to the program.
	Config Config
}

// EnsureArchives builds, in dir, the archives of the images that every machine gets, from the programs in binDir. It
// does not touch an archive of the same program.
func EnsureArchives(dir, binDir string) error {
	return Ensure(dir, binDir,
		Archive{File: "pause.tar", Reference: Pause, Program: "keyturn-pause"},
		Archive{File: "probe.tar", Reference: Probe, Program: "keyturn-probe", Optional: true})
}

// Ensure builds archives in dir from the programs in binDir. It does not touch an archive of the same program.
func Ensure(dir, binDir string, archives ...Archive) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("building images: %w", err)
	}
	for _, a := range archives {
		err := a.ensure(dir, filepath.Join(binDir, a.Program))
		if errors.Is(err, fs.ErrNotExist) && a.Optional {
			continue
		}
		if err != nil {
			return hint.Errorf("run `make build`", "building image %s: %w", a.Reference, err)
		}
	}
	return nil
}

// ensure compares the program with the digest that was stored when the archive was built: reading a program takes
// milliseconds, packing and importing it seconds.
func (a Archive) ensure(dir, program string) error {
	path, kept := filepath.Join(dir, a.File), filepath.Join(dir, a.File+".source")
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
	if err := Build(path, a.Reference, program, a.Config); err != nil {
		return err
	}
	// After a crash here, the archive is new and its digest is not, so the next call builds it again. The same happens
	// if the program was replaced after its digest was computed.
	return atomicfile.Write(kept, []byte(source))
}

// source returns a line with the image and the digest of its program.
func (a Archive) source(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", program, err)
	}
	return fmt.Sprintf("%s sha256:%x\n", a.Reference, digest.Sum(nil)), nil
}
