package kubeadm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/keyturn/keyturn/internal/local/image"
)

// programDir is where the images of Kubernetes have their programs: static pods name them without a directory.
const programDir = "usr/local/bin"

// ensureImages builds the archives that machines of a role import.
func (c *Cluster) ensureImages(role Role) error {
	dir := c.set(role).Images
	if err := image.EnsureArchives(dir, c.opts.BinDir); err != nil {
		return err
	}
	components, err := c.components(role)
	if err != nil {
		return err
	}
	if err := image.Ensure(dir, c.opts.KubeBinDir, components...); err != nil {
		return err
	}
	return c.linkImages(dir)
}

// components are the images that kubeadm wants on nodes of a role. kubeadm itself names them.
func (c *Cluster) components(role Role) ([]image.Archive, error) {
	list := exec.Command(filepath.Join(c.opts.KubeBinDir, "kubeadm"), "config", "images", "list",
		"--kubernetes-version="+c.opts.Version)
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the images of kubeadm: %w", err)
	}
	var archives []image.Archive
	for reference := range strings.FieldsSeq(string(out)) {
		program, _, _ := strings.Cut(path.Base(reference), ":")
		archive := image.Archive{File: program + ".tar", Reference: reference, Program: program, Config: image.Config{Dir: programDir}}
		switch program {
		case "pause", "kube-proxy": // containerd has a pause image of its own; the machine runs kube-proxy
		case "coredns":
			archives = append(archives, archive)
		default:
			if role == ControlPlane {
				archives = append(archives, archive)
			}
		}
	}
	return archives, nil
}

// linkImages adds the archives that the cluster was asked for.
func (c *Cluster) linkImages(dir string) error {
	if c.opts.Images == "" {
		return nil
	}
	archives, err := filepath.Glob(filepath.Join(c.opts.Images, "*.tar"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		to := filepath.Join(dir, filepath.Base(archive))
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Link(archive, to); err != nil {
			return err
		}
	}
	return nil
}
