package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
)

func (a *app) createConfigPatches() *cobra.Command {
	var from source
	var dir string
	cmd := &cobra.Command{
		Use:   "kubeadm-patches",
		Short: "Write the patches with which kubeadm upgrade keeps the signers of an adopted cluster",
		Long: `Write a patch for each control-plane node of an adopted cluster. With the patch, "kubeadm upgrade" writes a
manifest of kube-apiserver that uses the signer next to it, as with ksaSigningKey.source external. Copy the directory
of a node to that node, and name it with --patches or in an UpgradeConfiguration.

Without the patch, an upgrade makes an API server that reads files. Nothing breaks, because Keyturn keeps these files
up to date; it gives the API server its signer again, which takes one more restart. If a patch no longer fits the
flags of an API server, kubeadm stops before it changes anything; write the patch again then.`,
		Example: `  gkectl create-config kubeadm-patches --config prod.yaml --kubeconfig kubeconfig --dir patches
  kubeadm upgrade apply v1.36.5 --patches patches/cp-1   # on node cp-1`,
	}
	a.sourceFlags(cmd, &from)
	cmd.Flags().StringVar(&dir, "dir", "patches", "`directory` that gets one directory for each control-plane node")
	must(cmd.MarkFlagDirname("dir"))
	return a.verb(cmd, func(ctx context.Context) error {
		file, c, err := a.open(from)
		if err != nil {
			return err
		}
		if !file.Adopts() || file.Infrastructure.Kubeadm == nil {
			return usage("only clusters with infrastructure.kubeadm are upgraded by kubeadm",
				"user cluster %s has no infrastructure.kubeadm", file.Name)
		}
		patches, err := c.patches(ctx, file.Name)
		if err != nil {
			return err
		}
		for _, node := range slices.Sorted(maps.Keys(patches)) {
			to := filepath.Join(dir, node, manifest.PatchFile)
			if err := writePatch(to, patches[node]); err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "Wrote %s.\n", to)
		}
		a.note("Next: copy each directory to its node, and there: kubeadm upgrade apply VERSION --patches DIRECTORY " +
			"(on further control-plane nodes: kubeadm upgrade node --patches DIRECTORY)")
		return nil
	})
}

// patches returns the patches of an adopted cluster, by node.
func (c admin) patches(ctx context.Context, name string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	uc, err := c.existing(ctx, name)
	if err != nil {
		return nil, err
	}
	config, err := c.clientConfig(ctx, uc)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("using the kubeconfig of user cluster %s: %w", name, err)
	}
	patches, err := kubeadm.Patches(ctx, client, uc.Spec.Infrastructure.CertificatesDir())
	if err == nil && len(patches) == 0 {
		err = failed("check its kubeconfig", "user cluster %s has no API server that kubeadm made", name)
	}
	return patches, err
}

// writePatch writes a patch, replacing an older one.
func writePatch(path string, patch []byte) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, patch, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing a patch: %w", err)
	}
	return nil
}
