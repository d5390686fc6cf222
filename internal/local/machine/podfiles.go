package machine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// podVolumes is the path of a pod's projected volumes, below the root of its machine.
const podVolumes = "var/lib/kubelet/pods/%s/volumes/kubernetes.io~projected/%s"

// PodFile is a file in a projected volume of a pod. Path is relative to the volume.
type PodFile struct {
	PodUID, Volume, Path string
}

// ReadPodFiles calls each for every file, in order, with its content as the pod sees it now, at most limit bytes. The
// error is about one file, and fs.ErrNotExist if it does not exist.
func (s Set) ReadPodFiles(
	name string, files []PodFile, limit int64, each func(i int, content []byte, err error),
) error {
	if err := s.readPodFiles(name, files, limit, each); err != nil {
		return fmt.Errorf("reading files of pods on machine %s: %w", name, err)
	}
	return nil
}

func (s Set) readPodFiles(name string, files []PodFile, limit int64, each func(int, []byte, error)) error {
	first, err := s.init(name)
	if err != nil {
		return err
	}
	// The volumes are file systems in memory that only processes of the machine see: this leads to the root of its
	// init.
	root, err := os.OpenRoot(procPath(first.PID, "root"))
	if err != nil {
		return bare(err)
	}
	defer root.Close()
	for i, f := range files {
		content, err := readPodFile(root, f, limit)
		each(i, content, err)
	}
	if !first.Alive() {
		return errors.New("it ended meanwhile")
	}
	return nil
}

// readPodFile reads one file. A kubelet replaces a projected volume by replacing the link ..data atomically
// (pkg/volume/util/atomic_writer.go).
func readPodFile(root *os.Root, f PodFile, limit int64) (content []byte, err error) {
	for _, name := range []string{f.PodUID, f.Volume} {
		if !filepath.IsLocal(name) || filepath.Base(name) != name {
			return nil, errors.New("not the name of a directory")
		}
	}
	dir, err := root.OpenRoot(fmt.Sprintf(podVolumes, f.PodUID, f.Volume))
	if err != nil {
		return nil, bare(err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	// Links of the volume must stay in the volume.
	if content, err = readRegular(dir, filepath.Join("..data", f.Path), limit); err != nil {
		return nil, bare(err)
	}
	return content, nil
}

// readRegular reads at most limit bytes of a file that the machine may have created. Reading a pipe would never end.
func readRegular(dir *os.Root, path string, limit int64) (content []byte, err error) {
	file, err := dir.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return io.ReadAll(io.LimitReader(file, limit))
}

// bare removes the path from an error, which is a path of the host.
func bare(err error) error {
	if p := new(fs.PathError); errors.As(err, &p) {
		return p.Err
	}
	return err
}
