// Package image packs static programs as container images, in OCI archives. Machines of local clusters import them
// instead of using a registry, and `make images` makes the published ones.
//
// An image has one layer with one file. The same program always gives the same archive, byte for byte.
package image

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Config is what an image has in addition to its program.
type Config struct {
	// Dir is the directory of the program in the image, such as "usr/local/bin"; empty means the root.
	Dir string
	// User runs the program, such as "65532"; empty means root.
	User string
	// Labels are the labels of the image, such as "org.opencontainers.image.version".
	Labels map[string]string
	// Architecture is the architecture of the program, as Go names it; empty means the one of this machine.
	Architecture string
}

// Build packs a static program as the image of that reference, such as "localhost/keyturn/pause:1", with the program as
// entry point, and writes the OCI archive at path atomically.
func Build(path, reference, program string, c Config) error {
	img, err := pack(program, c)
	if err != nil {
		return fmt.Errorf("building image %s: %w", reference, err)
	}
	return write(path, reference, img)
}

// BuildIndex is Build for a program that was built for several architectures: it writes an archive of an image index,
// in the order in which they are given. Config.Architecture is not used.
func BuildIndex(path, reference string, programs []Built, c Config) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range programs {
		c.Architecture = p.Architecture
		img, err := pack(p.Path, c)
		if err != nil {
			return fmt.Errorf("building image %s for %s: %w", reference, p.Architecture, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: p.Architecture}},
		})
	}
	return write(path, reference, index)
}

// Built is a program of one architecture.
type Built struct{ Architecture, Path string }

// write writes an image or an index as an OCI archive.
func write(path, reference string, root mutate.Appendable) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("building image %s: %w", reference, err)
		}
	}()
	tag, err := name.NewTag(reference, name.StrictValidation)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	if err := errors.Join(writeArchive(f, tag, root), f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// pack makes an image that contains only the program.
func pack(program string, c Config) (v1.Image, error) {
	// The program is read again for each use, so that it is never completely in memory.
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return openLayer(program, c.Dir) },
		tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	return configured(img, "/"+filepath.Join(c.Dir, filepath.Base(program)), c)
}

// openLayer opens the archive of one executable file, which is created while it is read.
func openLayer(program, dir string) (io.ReadCloser, error) {
	f, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(errors.Join(writeLayer(w, f, dir), f.Close())) }()
	return r, nil
}

func writeLayer(to io.Writer, program *os.File, dir string) error {
	info, err := program.Stat()
	if err != nil {
		return err
	}
	w := tar.NewWriter(to)
	header := &tar.Header{
		Name: filepath.Join(dir, filepath.Base(program.Name())), Mode: 0o755, Size: info.Size(), Typeflag: tar.TypeReg,
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(w, program); err != nil {
		return err
	}
	return w.Close()
}

func configured(img v1.Image, entry string, c Config) (v1.Image, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", cmp.Or(c.Architecture, runtime.GOARCH)
	config.Config.Entrypoint = []string{entry}
	config.Config.User, config.Config.Labels = c.User, c.Labels
	return mutate.ConfigFile(img, config)
}
