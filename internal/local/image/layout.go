package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The annotations in which tools find the reference of an image in an archive: containerd and Docker use the first,
// others the second.
const (
	nameAnnotation = "io.containerd.image.name"
	refAnnotation  = "org.opencontainers.image.ref.name"
)

// layoutVersion is the content of file oci-layout.
const layoutVersion = `{"imageLayoutVersion":"1.0.0"}`

// writeArchive writes an image as a tar archive of an OCI image layout.
func writeArchive(to io.Writer, tag name.Tag, img v1.Image) error {
	index, err := indexOf(tag, img)
	if err != nil {
		return err
	}
	w := tar.NewWriter(to)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"oci-layout", []byte(layoutVersion)}, {"index.json", index}} {
		if err := writeFile(w, file.name, int64(len(file.content)), bytes.NewReader(file.content)); err != nil {
			return err
		}
	}
	if err := writeBlobs(w, img); err != nil {
		return err
	}
	return w.Close()
}

// indexOf returns the index of an archive with one image.
func indexOf(tag name.Tag, img v1.Image) ([]byte, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	return json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(manifest)), Platform: config.Platform(),
			Annotations: map[string]string{nameAnnotation: tag.Name(), refAnnotation: tag.TagStr()},
		}},
	})
}

// writeBlobs writes the layers, the configuration and the manifest.
func writeBlobs(w *tar.Writer, img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		if err := writeLayerBlob(w, layer); err != nil {
			return err
		}
	}
	for _, raw := range []func() ([]byte, error){img.RawConfigFile, img.RawManifest} {
		content, err := raw()
		if err != nil {
			return err
		}
		digest, size, err := v1.SHA256(bytes.NewReader(content))
		if err != nil {
			return err
		}
		if err := writeFile(w, blobName(digest), size, bytes.NewReader(content)); err != nil {
			return err
		}
	}
	return nil
}

func writeLayerBlob(w *tar.Writer, layer v1.Layer) error {
	digest, err := layer.Digest()
	if err != nil {
		return err
	}
	size, err := layer.Size()
	if err != nil {
		return err
	}
	content, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer content.Close()
	return writeFile(w, blobName(digest), size, content)
}

func blobName(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

func writeFile(w *tar.Writer, name string, size int64, content io.Reader) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := io.Copy(w, content)
	return err
}
