package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/local/machine/guest"
)

// bootstrapSuccess is the file with which bootstrap data reports that the machine became a node, by the contract of
// Cluster API's bootstrap providers.
const bootstrapSuccess = "/run/cluster-api/bootstrap-success.complete"

// firstBoot runs the user data once the images were imported, since kubeadm would pull missing ones from a registry.
func firstBoot(imported []string) guest.Service {
	return guest.Service{
		Name: "first-boot", Path: guest.InitPath, Args: []string{"first-boot", bootstrapSuccess}, Once: true,
		Env: []string{pathInside, "HOME=/root"}, After: append([]string{criSocket, guest.UserDataPath}, imported...),
	}
}

// writeUserData writes the user data for the service firstBoot.
func (s Set) writeUserData(name string, data []byte) error {
	path := inVarPath(guest.UserDataPath)
	return s.inVar(name, func(dir *os.Root) error {
		if err := dir.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := dir.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return writeNew(dir, path, data, 0o600)
	})
}

// maxFirstBoot is the most bytes that are read of the result of user data.
const maxFirstBoot = 64 << 10

// FirstBoot returns the result of the user data of a machine; false until it has run.
func (s Set) FirstBoot(name string) (result guest.FirstBoot, ended bool, err error) {
	var raw []byte
	err = s.inVar(name, func(dir *os.Root) (err error) {
		raw, err = readRegular(dir, inVarPath(guest.FirstBootPath), maxFirstBoot)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return guest.FirstBoot{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &result)
	}
	if err != nil {
		return guest.FirstBoot{}, false, fmt.Errorf("reading the result of the user data of machine %s: %w", name, err)
	}
	return result, true, nil
}

// inVarPath returns the part of a path below /var.
func inVarPath(path string) string {
	relative, err := filepath.Rel(varPath, path)
	if err != nil {
		panic(err) // both are absolute
	}
	return relative
}
