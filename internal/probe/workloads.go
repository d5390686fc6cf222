package probe

import (
	"fmt"
	"slices"
	"time"
)

// Workload is how a pod gets its tokens. The empty one mounts tokens of all kinds and reads each again for each use, as
// Kubernetes clients do.
type Workload string

// The other workloads. All but CronJob use only a legacy token, of which they have a copy that nothing replaces while
// they run.
const (
	Once        Workload = "once"        // reads a mounted token when it starts, and never again
	Environment Workload = "environment" // has it in an environment variable
	SubPath     Workload = "subpath"     // mounts its file by subPath
	Sidecar     Workload = "sidecar"     // has it in an environment variable of a native sidecar
	CronJob     Workload = "cronjob"     // starts each minute, uses all kinds for some seconds, and ends
)

// Workloads returns all but the empty one.
func Workloads() []Workload { return []Workload{Once, Environment, SubPath, Sidecar, CronJob} }

// legacyTokenVariable is the environment variable of Environment and Sidecar.
const legacyTokenVariable = "LEGACY_TOKEN"

// cronJobLife is how long a pod of CronJob uses tokens.
const cronJobLife = 15 * time.Second

// Copies reports whether a pod has a copy of its token, so that only a new container gets another one.
func (w Workload) Copies() bool { return w != "" && w != CronJob }

func (w Workload) kinds() []Kind {
	if w.Copies() {
		return []Kind{Legacy}
	}
	return apiServerKinds()
}

// life is how long a pod uses tokens; zero: until it ends.
func (w Workload) life() time.Duration {
	if w == CronJob {
		return cronJobLife
	}
	return 0
}

func (w Workload) validate() error {
	if w != "" && !slices.Contains(Workloads(), w) {
		return fmt.Errorf("workload %q is none of %v", w, Workloads())
	}
	return nil
}

// copyTokens makes the workload keep using the token that it starts with. With a subPath mount this is not needed.
func (o *options) copyTokens() (err error) {
	var bearer string
	switch o.Workload {
	case Once:
		bearer, err = o.Files.read(Legacy)
	case Environment, Sidecar:
		bearer = o.LegacyToken
	default:
		return nil
	}
	if err == nil && bearer == "" {
		err = fmt.Errorf("workload %s starts without a legacy token", o.Workload)
	}
	o.Files.copied = map[Kind]string{Legacy: bearer}
	return err
}
