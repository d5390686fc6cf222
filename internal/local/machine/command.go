package machine

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
)

// pathInside is the path of programs in a machine, with Keyturn's programs first.
const pathInside = "PATH=/opt/keyturn:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command returns a command that runs in a machine as root, as if an administrator had logged in.
func (s Set) Command(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	first, err := s.init(name)
	if err != nil {
		return nil, fmt.Errorf("entering machine %s: %w", name, err)
	}
	args := append([]string{
		"--target", strconv.Itoa(first.PID), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/",
		"--",
	}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = []string{pathInside, "HOME=/root"}
	return cmd, nil
}
