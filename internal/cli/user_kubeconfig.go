package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// kubeconfigFile returns the kubeconfig file of a user cluster, from what access returns.
func (c admin) kubeconfigFile(ctx context.Context, uc *v1alpha1.UserCluster) ([]byte, error) {
	access, err := c.access(ctx, uc)
	if err != nil {
		return nil, err
	}
	return access.File(uc.Name, "kubernetes-admin")
}

// checkKubeconfig refuses to overwrite a file that is not a kubeconfig of the user cluster. The file need not exist.
func (c admin) checkKubeconfig(ctx context.Context, cluster, path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the file to which the kubeconfig of user cluster %s is written: %w", cluster, err)
	}
	wanted, err := c.accessByName(ctx, cluster)
	if err != nil && !isMissing(err) {
		return err
	}
	found, parseErr := kubeconfig.Parse(data)
	if err != nil || parseErr != nil || !found.SameCluster(wanted) {
		return usage("rename or remove that file",
			"%s exists, and is not a kubeconfig of user cluster %s: nothing was created", path, cluster)
	}
	return nil
}

// accessByName is access for a cluster of which only the name is known.
func (c admin) accessByName(ctx context.Context, cluster string) (kubeconfig.Access, error) {
	uc, err := c.get(ctx, cluster)
	if err != nil {
		return kubeconfig.Access{}, err
	}
	return c.access(ctx, uc)
}

// writeKubeconfig writes the kubeconfig of a user cluster to a file. The file is never incomplete.
func (c admin) writeKubeconfig(ctx context.Context, uc *v1alpha1.UserCluster, path string) (err error) {
	data, err := c.kubeconfigFile(ctx, uc)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the kubeconfig of user cluster %s: %w", uc.Name, err)
		}
	}()
	// CreateTemp makes a file of mode 0600.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// removeKubeconfig removes the file that writeKubeconfig wrote with this content. It does not touch another file.
func removeKubeconfig(path string, written []byte) (removed bool, err error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("reading the kubeconfig file of the user cluster: %w", err)
	case !bytes.Equal(data, written):
		return false, nil
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("removing the kubeconfig file of the user cluster: %w", err)
	}
	return true, nil
}
