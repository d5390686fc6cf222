package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// file is one file of an archive.
type file struct {
	name       string
	content    []byte
	executable bool
}

// tar writes files as a gzipped tar archive, in the order of their names, with the time of the release.
func (r *release) tar(name string, files []file) (err error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	f, err := os.Create(filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	compressed, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(compressed)
	for _, file := range files {
		mode := int64(0o644)
		if file.executable {
			mode = 0o755
		}
		h := &tar.Header{
			Name: file.name, Mode: mode, Size: int64(len(file.content)), ModTime: r.epoch, Typeflag: tar.TypeReg,
			Format: tar.FormatPAX,
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(file.content); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), compressed.Close())
}

// chart has Helm pack the chart, and packs it again with fixed times and order.
func (r *release) chart(ctx context.Context) error {
	version := strings.TrimPrefix(r.version, "v")
	env := []string{"HELM_CACHE_HOME=" + r.work, "HELM_CONFIG_HOME=" + r.work, "HELM_DATA_HOME=" + r.work}
	if err := r.command(ctx, env, r.helm, "package", "deploy/charts/keyturn", "--version", version, "--app-version",
		r.version,
		"--destination", r.work); err != nil {
		return err
	}
	name := "keyturn-" + version + ".tgz"
	packed, err := os.ReadFile(filepath.Join(r.work, name))
	if err != nil {
		return err
	}
	files, err := untar(packed)
	if err != nil {
		return fmt.Errorf("reading what Helm packed: %w", err)
	}
	return r.tar(name, files)
}

func untar(archive []byte) (files []file, err error) {
	compressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	for r := tar.NewReader(compressed); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: h.Name, content: content})
	}
}

// checksumsFile is in the form that sha256sum --check reads.
const checksumsFile = "checksums.txt"

// checksums writes the checksums of all files that were written before.
func (r *release) checksums(context.Context) error {
	var lines strings.Builder
	err := filepath.WalkDir(r.out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		sum, err := sumOf(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(r.out, path)
		fmt.Fprintf(&lines, "%x  %s\n", sum, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		return err
	}
	return r.write(checksumsFile, []byte(lines.String()))
}

func sumOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}

// write writes a file of the release, which everybody may read.
func (r *release) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(r.out, name), content, 0o644)
}
