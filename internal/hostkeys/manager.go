package hostkeys

import (
	"fmt"
	"path/filepath"
)

// ControllerManager manages the signing key of one kube-controller-manager.
type ControllerManager struct {
	// Dir is its key directory.
	Dir string

	fault func(disk) disk
}

// managerConfig is its configured.json.
type managerConfig struct{ Sign int }

func (m ControllerManager) directory() directory { return directory{m.Dir, m.fault} }

// PrivateKey returns the path of the signing key of a version.
func (m ControllerManager) PrivateKey(version int) string {
	return filepath.Join(m.Dir, privateKeyFile(version))
}

// Configured returns the key version that it will sign with when it next starts; 0 before the first Configure.
func (m ControllerManager) Configured() (int, error) {
	held := 0
	err := m.directory().read(func(files disk) (err error) {
		held, err = heldSign(files)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reading the key of a kube-controller-manager in %s: %w", m.Dir, err)
	}
	return held, nil
}

func heldSign(files disk) (int, error) {
	var c managerConfig
	found, err := readConfigured(files, &c)
	if err == nil && found && c.Sign < 1 {
		err = fmt.Errorf("%s: key version %d is below 1", configuredFile, c.Sign)
	}
	if err != nil {
		return 0, err
	}
	return c.Sign, nil
}

// Configure sets the key version to sign with, which keys must contain. If the directory holds a later version,
// Configure returns ErrStale and writes nothing.
func (m ControllerManager) Configure(sign int, keys []Key) error {
	if err := m.configure(sign, keys); err != nil {
		return fmt.Errorf("writing the key of a kube-controller-manager to %s: %w", m.Dir, err)
	}
	return nil
}

func (m ControllerManager) configure(sign int, keys []Key) error {
	if err := makeDir(m.Dir); err != nil {
		return err
	}
	return m.directory().change(func(files disk) error {
		held, err := heldSign(files)
		if err != nil {
			return err
		}
		if sign < held {
			return fmt.Errorf("%w: it should sign with key version %d, and no longer with %d", ErrStale, held, sign)
		}
		if err := writeKeys(files, nil, sign, keys); err != nil {
			return err
		}
		return writeConfigured(files, managerConfig{Sign: sign})
	})
}

// Held returns the key versions whose private key is on the disk, ascending.
func (m ControllerManager) Held() (versions []int, err error) {
	err = m.directory().read(func(files disk) (err error) {
		versions, err = held(files)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the private keys in %s: %w", m.Dir, err)
	}
	return versions, nil
}

// Tidy deletes every key file that neither the configuration nor the running process needs, and what interrupted calls
// left. running is the version that the process runs with.
func (m ControllerManager) Tidy(running int) error {
	err := m.directory().clean(func(files disk) error {
		held, err := heldSign(files)
		if err != nil {
			return err
		}
		return tidy(files, []string{privateKeyFile(held), privateKeyFile(running)})
	})
	if err != nil {
		return fmt.Errorf("deleting old keys of a kube-controller-manager in %s: %w", m.Dir, err)
	}
	return nil
}
