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

// Paths of the user data in a machine, where cloud-init has it and its result too.
const (
	// UserDataPath is the user data of a machine that has some.
	UserDataPath = "/var/lib/cloud/instance/user-data.txt"
	// FirstBootPath is where the machine leaves its FirstBoot.
	FirstBootPath = "/var/lib/cloud/data/result.json"
	// beganPath exists from when on user data may have been carried out in part.
	beganPath = "/var/lib/cloud/instance/began"
)

// FirstBoot is what came of the user data of a machine.
type FirstBoot struct {
	// Error is why it failed; empty: it succeeded. What its commands printed is in the log of the service.
	Error string `json:"error,omitempty"`
}

// firstBoot carries out the machine's user data, once in its life, as it cannot be known to be repeatable. It succeeded
// if its commands made the file success, which is of this boot.
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
	// Crash here or below: the machine never carries out its user data again, and says so.
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
