// Package guest is what runs as keyturn-machine: the walls of a machine and, inside of them, its process 1.
//
// Run is where to start; it stays outside. It starts a second process in namespaces of its own, which builds the
// machine's root (enter.go) and then becomes its init (init.go): that starts the services, starts them again when they
// die, and reaps orphans. When the process outside dies, the kernel kills process 1, and with it all that runs in the
// machine.
//
// The root is made of read-only bind mounts of the host's /usr and of directories of the machine's own. Nothing else of
// the host is mounted in it. That keeps programs and ordinary pods from what is the host's, such as its private keys;
// it is no wall against root with CAP_SYS_ADMIN, which a privileged pod is. What is to run in there is data: this
// package knows no Kubernetes.
package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Paths inside a machine.
const (
	// ConfigPath is where a machine finds its Config.
	ConfigPath = "/etc/keyturn/guest.json"
	// DonePath is the directory where services with Once leave a file of their name when they have succeeded.
	DonePath = "/run/keyturn/done"
	// LogPath is the directory of the services' output, NAME.log.
	LogPath = "/var/log"
	// InitPath is the executable of process 1.
	InitPath = "/opt/keyturn/keyturn-machine"
)

// Config is all that a machine is made of. Etc and Var are directories below its own.
type Config struct {
	// Group is the name of the machine's control group.
	Group string `json:"group"`
	// Hostname is its own.
	Hostname string `json:"hostname"`
	// Binds are files and directories of the host that it sees.
	Binds []Bind `json:"binds"`
	// Sysctls are the kernel parameters of its network namespace, as paths below /proc/sys/net.
	Sysctls map[string]string `json:"sysctls"`
	// WritableEtc lets what runs in the machine change its /etc.
	WritableEtc bool `json:"writableEtc,omitempty"`
	// ReadSearch leaves CAP_DAC_READ_SEARCH to the machine, which pods of keyturn-agent have. It opens files of the host.
	ReadSearch bool `json:"readSearch,omitempty"`
	// Services are what it runs.
	Services []Service `json:"services"`
}

// Bind is a file or directory of the host at a place in the machine, read-only.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Service is one program that a machine runs.
type Service struct {
	Name string   `json:"name"`
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	// After are the files that must be there before it starts.
	After []string `json:"after"`
	// Once means that it is run until it succeeds. Others are started again whenever they end.
	Once bool `json:"once"`
}

// Done is the file that says that a service with Once has succeeded.
func Done(service string) string { return filepath.Join(DonePath, service) }

// readConfig reads the Config at the path.
func readConfig(path string) (Config, error) {
	var c Config
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("reading machine configuration: %w", err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("reading machine configuration %s: %w", path, err)
	}
	return c, nil
}
