package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
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

// writeArchive writes an image, or an index of images, as a tar archive of an OCI image layout.
func writeArchive(to io.Writer, tag name.Tag, root mutate.Appendable) error {
	index, err := indexOf(tag, root)
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
	switch root := root.(type) {
	case v1.Image:
		err = writeImage(w, root)
	case v1.ImageIndex:
		err = writeIndex(w, root)
	}
	if err != nil {
		return err
	}
	return w.Close()
}

// indexOf returns the index of an archive with one image, or with one index of images.
func indexOf(tag name.Tag, root mutate.Appendable) ([]byte, error) {
	descriptor, err := partial.Descriptor(root)
	if err != nil {
		return nil, err
	}
	descriptor.ArtifactType = ""
	descriptor.Annotations = map[string]string{nameAnnotation: tag.Name(), refAnnotation: tag.TagStr()}
	if img, ok := root.(v1.Image); ok {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		descriptor.Platform = config.Platform()
	}
	return json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*descriptor},
	})
}

// writeIndex writes the images of an index, and then the index.
func writeIndex(w *tar.Writer, index v1.ImageIndex) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, m := range manifest.Manifests {
		img, err := index.Image(m.Digest)
		if err != nil {
			return err
		}
		if err := writeImage(w, img); err != nil {
			return err
		}
	}
	return writeBlob(w, index.RawManifest)
}

// writeImage writes the layers, the configuration and the manifest of an image.
func writeImage(w *tar.Writer, img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		if err := writeLayerBlob(w, layer); err != nil {
			return err
		}
	}
	if err := writeBlob(w, img.RawConfigFile); err != nil {
		return err
	}
	return writeBlob(w, img.RawManifest)
}

func writeBlob(w *tar.Writer, raw func() ([]byte, error)) error {
	content, err := raw()
	if err != nil {
		return err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return err
	}
	return writeFile(w, blobName(digest), size, bytes.NewReader(content))
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
