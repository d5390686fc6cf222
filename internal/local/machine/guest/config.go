// Package guest is what runs as keyturn-machine: the sandbox of a machine and, inside it, its process 1.
//
// Start with Run; it stays outside. It starts a second process in separate namespaces, which builds the machine's root
// (enter.go) and then becomes its init (init.go): it starts the services, restarts them when they die, and reaps
// orphans. When the process outside dies, the kernel kills process 1, and with it everything that runs in the machine.
//
// The root consists of read-only bind mounts of the host's /usr and of the machine's own directories. Nothing else of
// the host is mounted in it. That keeps programs and ordinary pods away from the host's data, such as its private keys;
// it does not contain root with CAP_SYS_ADMIN, such as a privileged pod. What runs in there is data: this package knows
// no Kubernetes.
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
	// DonePath is the directory in which services with Once leave a file of their name after they succeeded.
	DonePath = "/run/keyturn/done"
	// LogPath is the directory of the services' output, NAME.log.
	LogPath = "/var/log"
	// InitPath is the executable of process 1.
	InitPath = "/opt/keyturn/keyturn-machine"
)

// Config is everything that a machine consists of. Etc and Var are directories below its own.
type Config struct {
	// Group is the name of the machine's control group.
	Group string `json:"group"`
	// Hostname is its own.
	Hostname string `json:"hostname"`
	// Binds are files and directories of the host that it sees.
	Binds []Bind `json:"binds"`
	// Sysctls are the kernel parameters of its network namespace, as paths below /proc/sys/net.
	Sysctls map[string]string `json:"sysctls"`
	// WritableEtc lets programs in the machine change its /etc.
	WritableEtc bool `json:"writableEtc,omitempty"`
	// ReadSearch leaves CAP_DAC_READ_SEARCH to the machine, which pods of keyturn-agent have. It can open files of the
	// host.
	ReadSearch bool `json:"readSearch,omitempty"`
	// Services are what it runs.
	Services []Service `json:"services"`
}

// Bind is a file or directory of the host that appears in the machine, read-only.
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
	// After are the files that must exist before it starts.
	After []string `json:"after"`
	// Once means that it is run until it succeeds. Others are restarted whenever they end.
	Once bool `json:"once"`
}

// Done returns the file that shows that a service with Once has succeeded.
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
