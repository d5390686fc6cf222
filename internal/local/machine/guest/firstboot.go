package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/cloudconfig"
)

// Paths of the user data in a machine, the same as those of cloud-init.
const (
	// UserDataPath is the user data of a machine that has some.
	UserDataPath = "/var/lib/cloud/instance/user-data.txt"
	// FirstBootPath is where the machine leaves its FirstBoot.
	FirstBootPath = "/var/lib/cloud/data/result.json"
	// beganPath exists once user data may have run in part.
	beganPath = "/var/lib/cloud/instance/began"
)

// FirstBoot is the result of the user data of a machine.
type FirstBoot struct {
	// Error is why it failed; empty: it succeeded. The output of its commands is in the log of the service.
	Error string `json:"error,omitempty"`
}

// firstBoot runs the machine's user data, once in its life, since it may not be repeatable. It succeeded if its
// commands created the file success in this boot.
func firstBoot(success string) error {
	if _, err := os.Stat(FirstBootPath); err == nil {
		return nil
	}
	began, err := os.OpenFile(beganPath, os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return record(errors.New("the machine stopped while it carried out its user data"))
	}
	if err != nil {
		return err
	}
	if err := began.Close(); err != nil {
		return err
	}
	// After a crash here or below, the machine never runs its user data again, and reports that.
	err = carryOut()
	if _, missing := os.Stat(success); missing != nil {
		return record(errors.Join(err, fmt.Errorf("the commands of the user data did not make %s", success)))
	}
	return record(nil)
}

func carryOut() error {
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(UserDataPath)
	if err != nil {
		return err
	}
	config, err := cloudconfig.Parse(data, cloudconfig.MetaData{"local_hostname": hostname, "instance_id": hostname})
	if err != nil {
		return err
	}
	return config.Apply(context.Background(), "/")
}

func record(failure error) error {
	var result FirstBoot
	if failure != nil {
		result.Error = failure.Error()
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(FirstBootPath), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(FirstBootPath, raw)
}
