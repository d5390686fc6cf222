package cloudconfig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// scriptPath is the path of cloud-init for the script of runcmd.
const scriptPath = "/var/lib/cloud/instance/scripts/runcmd"

// Apply writes the files below root, which is "/" in a machine, and runs the script with the standard output of this
// process. The script fails if its last command does.
func (c Config) Apply(ctx context.Context, root string) error {
	for _, f := range c.Files {
		if err := f.write(root); err != nil {
			return fmt.Errorf("writing %s: %w", f.Path, err)
		}
	}
	if c.Script == "" {
		return nil
	}
	script := File{Path: scriptPath, Content: []byte(c.Script), Owner: "root:root", Mode: 0o700}
	if err := script.write(root); err != nil {
		return fmt.Errorf("writing %s: %w", scriptPath, err)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", filepath.Join(root, scriptPath))
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running the commands: %w", err)
	}
	return nil
}

// write sets owner and mode before the content, which may be secret, exists.
func (f File) write(root string) error {
	uid, gid, err := f.owner()
	if err != nil {
		return err
	}
	name := filepath.Join(root, f.Path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if f.Append {
		flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	file, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(file.Chown(uid, gid), file.Chmod(os.FileMode(f.Mode)))
	if err == nil {
		_, err = file.Write(f.Content)
	}
	return errors.Join(err, file.Close())
}

func (f File) owner() (uid, gid int, err error) {
	name, group, hasGroup := strings.Cut(f.Owner, ":")
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	id := u.Gid
	if hasGroup {
		g, err := user.LookupGroup(group)
		if err != nil {
			return 0, 0, err
		}
		id = g.Gid
	}
	if uid, err = strconv.Atoi(u.Uid); err == nil {
		gid, err = strconv.Atoi(id)
	}
	return uid, gid, err
}
