package rotation

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// The laws are what must be true at any instant. Each returns the first violation.

// errNotSettled means that a rotation did not end although nothing stood in its way.
var errNotSettled = errors.New("not settled")

// wellFormed holds a decision to what every caller of Plan relies on, for any observation.
func wellFormed(o Observed, d Decision) error {
	a := d.Action
	stored := func(v int) bool { return slices.Contains(o.Stored, v) }
	allStored := func(vs []int) bool { return !slices.ContainsFunc(vs, func(v int) bool { return !stored(v) }) }
	switch {
	case d.Blocked && d.Waiting == "":
		return errors.New("blocked without a reason")
	case o.Presence == PresenceUnknown && a.Kind != Wait:
		return fmt.Errorf("%s although it saw nothing", a.Kind)
	case d.Blind && (a.Kind != Wait || d.Step != "" || d.Done || d.Settled):
		return errors.New("reports more than it saw")
	case d.Settled && (a.Kind != ConvergeControlPlane || a.Target.Next != "" || a.Target.Live || a.Target.Bootstrap ||
		!d.Done):
		return fmt.Errorf("settled, and changes %+v", a)
	case d.Patient && (a.Kind != Wait || d.Waiting == "" || d.Step != StepRetire || !o.Outstanding.Awaited):
		return errors.New("patient with something to do")
	case d.Settled && (d.Waiting != "" || d.Step != "" || o.ControlPlaneWaiting != ""):
		return errors.New("settled with something left to do")
	case !d.Settled && d.Waiting == "" && a.Kind != GenerateKey && a.Kind != AdoptKey && a.Kind != DeleteKey:
		return fmt.Errorf("nothing to wait for after %s", a.Kind)
	case !slices.Contains(inOrder, d.Step):
		return fmt.Errorf("unknown step %q", d.Step)
	}
	for _, v := range append([]int{d.Versions.Token, d.Versions.Private}, d.Versions.Public...) {
		if v != 0 && !stored(v) {
			return fmt.Errorf("versions %v claim key version %d, which is not stored", d.Versions, v)
		}
	}
	ok := false
	switch a.Kind {
	case Wait:
		ok = true
	case GenerateKey:
		ok = a.Version >= 1 && a.Version == o.Wanted && !stored(a.Version)
	case ConvergeControlPlane:
		k := a.Target.Keys
		ok = slices.IsSorted(k.Verify) && slices.Contains(k.Verify, k.Sign) && allStored(k.Verify) &&
			slices.Contains(k.Verify, a.Target.ControllerManagerSign) &&
			(a.Target.Next == "" || slices.ContainsFunc(o.Servers, func(s Server) bool { return s.Name == a.Target.Next }))
	case PublishKeys:
		ok = len(o.Publications) > 0 && len(a.Publish) > 0 && slices.IsSorted(a.Publish) && allStored(a.Publish)
	case RefreshTokens, ConvergeNodes:
		ok = stored(a.Version)
	case DeleteKey:
		ok = stored(a.Version) && a.Version < slices.Max(o.Stored)
	case AdoptKey:
		ok = o.Adopted && len(o.Stored) == 0 && a.Version == 1 && a.KeyID != ""
	case WriteKubeconfig:
		ok = o.KubeconfigDue
	}
	if !ok {
		return fmt.Errorf("action %+v does not fit what was observed", a)
	}
	return cmp.Or(checkNext(o, a.Target), checkLive(o, a.Target))
}

// checkDecision compares a decision with what was observed, and what it reports with what is true.
func (c *cluster) checkDecision(o Observed, d Decision) error {
	if err := wellFormed(o, d); err != nil {
		return err
	}
	if d.Settled {
		if err := c.checkSettled(); err != nil {
			return err
		}
	}
	if d.Done && (d.Step != "" || !slices.Equal(o.Stored, []int{o.Wanted})) {
		return fmt.Errorf("done with key versions %v in step %q", o.Stored, d.Step)
	}
	accepts := func(s Server) bool { return !s.Leaving && len(s.Foreign) > 0 }
	if i := slices.IndexFunc(o.Servers, accepts); d.Done && o.Wanted > 1 && i >= 0 {
		return fmt.Errorf("done while %s accepts the keys %v", o.Servers[i].Name, o.Servers[i].Foreign)
	}
	if rank(d.Step) < c.begun && !d.Blind {
		return fmt.Errorf("step %q after %s had begun", d.Step, inOrder[c.begun])
	}
	if d.Blind {
		return nil
	}
	if err := cmp.Or(checkForward(o, d.Action), checkLaggards(o, d.Action)); err != nil {
		return err
	}
	if err := checkAttended(o, d.Action); err != nil {
		return err
	}
	if err := checkProofs(o, d, c.begun); err != nil {
		return err
	}
	if d.Action.Kind == RefreshTokens && o.Legacy.Proven != d.Action.Version && c.pausing {
		return errors.New("legacy tokens are re-signed while kubelets do not watch them")
	}
	return c.checkVersions(d.Versions)
}

// checkSettled returns an error if anything is left of the time before the wanted key version.
func (c *cluster) checkSettled() error {
	w := c.wanted
	only := simKeys{setOf(int(w)), w, c.external()}
	if c.stored != only.verify || c.disks != only.verify {
		return fmt.Errorf("settled with keys %v stored and %v on disks", c.stored.list(), c.disks.list())
	}
	if c.anyServer(func(s simServer) bool { return s.foreign && !s.leaving }) && w > 1 {
		return errors.New("settled with a foreign key")
	}
	if c.shape.open && c.bootstrap != only {
		return fmt.Errorf("settled with bootstrap material %v", c.bootstrap.keys())
	}
	for i, s := range c.each {
		if !s.leaving && (s.configured != only || s.loaded != only || s.phase != ready) {
			return fmt.Errorf("settled with API server %s %+v", serverName(i), *s)
		}
	}
	for i, m := range c.manager[:c.shape.managers] {
		if (m != simManager{w, w, true}) {
			return fmt.Errorf("settled with kube-controller-manager %s %+v", managerName(i), m)
		}
	}
	if c.shape.fleet && c.fleet.accepts != only.verify {
		return fmt.Errorf("settled with a fleet that accepts %v", c.fleet.accepts.list())
	}
	for _, v := range c.secrets {
		if v != 0 && v != w {
			return fmt.Errorf("settled with a legacy token of key version %d", v)
		}
	}
	present := int8(0)
	for i, n := range c.nodes {
		if n.phase == away {
			continue
		}
		if n.phase != ready || n.version != w || n.token != w {
			return fmt.Errorf("settled with node-%d %+v", i, n)
		}
		present++
	}
	if present != c.shape.nodes {
		return fmt.Errorf("settled with %d nodes", present)
	}
	return nil
}

// checkVersions holds the three versions to what is true: they may lag behind it and never run ahead.
func (c *cluster) checkVersions(v Versions) error {
	if v.Token == 0 {
		return nil
	}
	token, private, newest := uint8(v.Token), uint8(v.Private), uint8(slices.Max(v.Public))
	for i, s := range c.each {
		if !s.counts() {
			continue
		}
		name, now := serverName(i), s.running
		switch {
		case s.phase == away:
			now = s.configured
		case s.running.external:
			now = s.loaded
		}
		switch {
		case s.configured.sign < private && !s.older || now.sign < private || now.sign < token:
			return fmt.Errorf("versions %v while %s signs with %d", v, name, min(s.configured.sign, now.sign))
		case !now.verify.has(newest) && !s.loaded.verify.has(newest):
			return fmt.Errorf("versions %v while %s does not accept %d", v, name, newest)
		case now.verify.min() < uint8(v.Public[0]):
			return fmt.Errorf("versions %v while %s still accepts %d", v, name, now.verify.min())
		}
	}
	for i, m := range c.manager[:c.shape.managers] {
		if m.configured < private || m.running != 0 && m.running < max(private, token) {
			return fmt.Errorf("versions %v while %s signs with %d", v, managerName(i), m.running)
		}
	}
	if c.shape.fleet && newest > 1 && !c.fleet.accepts.has(newest) && !c.fleet.lost {
		return fmt.Errorf("versions %v while the fleet does not accept %d", v, newest)
	}
	if held := c.held(); held != 0 && held.min() < token {
		return fmt.Errorf("versions %v while a token of %d is held", v, held.min())
	}
	return nil
}

// held are the key versions of the tokens in Secrets and in pods.
func (c *cluster) held() (s set) {
	for _, v := range c.secrets {
		s |= setOf(int(v))
	}
	for _, n := range c.nodes {
		s |= setOf(int(n.token))
	}
	return s &^ setOf(0)
}

// checkStep holds an executed decision to the order of the rotation.
func checkStep(was, is *cluster, d Decision) error {
	for i := range is.each {
		if err := checkConfigured(was, is, i); err != nil {
			return fmt.Errorf("API server %s: %w", serverName(i), err)
		}
	}
	if err := was.checkKeys(was.bootstrap, is.bootstrap, false); err != nil {
		return fmt.Errorf("bootstrap material: %w", err)
	}
	for i, m := range is.manager[:is.shape.managers] {
		if err := checkManager(was, is, i); err != nil {
			return fmt.Errorf("kube-controller-manager %s: %d after %d: %w", managerName(i), m.configured,
				was.manager[i].configured, err)
		}
	}
	if gone := was.fleet.published &^ is.fleet.published; gone != 0 {
		if err := was.checkUnused(gone.min()); err != nil {
			return fmt.Errorf("the fleet loses key version %d: %w", gone.min(), err)
		}
	}
	if err := checkStore(was, is); err != nil {
		return err
	}
	return nil
}

// checkConfigured allows an API server one change at a time, forward only, and each after its proof.
func checkConfigured(was, is *cluster, i int) error {
	if was.servers[i].foreignFile && !is.servers[i].foreignFile && !was.released {
		return errors.New("loses a foreign key that may not go")
	}
	before, after := was.servers[i].configured, is.servers[i].configured
	return was.checkKeys(before, after, was.servers[i].outsider || was.servers[i].older)
}

// checkKeys allows keys to change forward only, and each time after the proof. Those of an API server that is behind
// may follow the others.
func (c *cluster) checkKeys(before, after simKeys, behind bool) error {
	if before == after || before.sign == 0 {
		return nil
	}
	if after.sign < before.sign || after.verify.min() < before.verify.min() || after.verify.max() < before.verify.max() {
		return fmt.Errorf("%v after %v goes backward", after.keys(), before.keys())
	}
	if behind && after.keys().Stage() <= int(c.high) {
		return nil
	}
	if after.sign != before.sign {
		return c.checkProven(after.sign)
	}
	if gone := before.verify &^ after.verify; gone != 0 {
		if err := c.checkUnused(gone.min()); err != nil {
			return fmt.Errorf("loses key version %d: %w", gone.min(), err)
		}
	}
	return nil
}

// checkProven returns an error if a verifier was never seen to accept a key version, or is no longer configured with
// it.
func (c *cluster) checkProven(version uint8) error {
	for i, s := range c.each {
		if !s.counts() || s.unseen && s.configured.verify.has(version) {
			continue
		}
		if !s.proven.has(version) || !s.older && !s.configured.verify.has(version) {
			return fmt.Errorf("signs with key version %d, which %s has not proven to accept", version, serverName(i))
		}
	}
	if c.shape.fleet && !c.fleet.proven.has(version) {
		return fmt.Errorf("signs with key version %d, which the fleet has not proven to accept", version)
	}
	return nil
}

func checkManager(was, is *cluster, i int) error {
	before, after := was.manager[i].configured, is.manager[i].configured
	switch {
	case before == 0 || before == after:
		return nil
	case after < before:
		return errors.New("goes backward")
	case was.anyServer(func(s simServer) bool { return s.configured.sign != after && s.counts() && !s.older }):
		return errors.New("is switched before the API servers are")
	}
	return was.checkProven(after)
}

// checkUnused returns an error that names what still needs a key version to be accepted.
func (c *cluster) checkUnused(version uint8) error {
	for i, s := range c.each {
		if !s.counts() {
			continue
		}
		if s.configured.sign == version || s.running.sign == version || s.loaded.sign == version {
			return fmt.Errorf("%s signs with it", serverName(i))
		}
	}
	for i, m := range c.manager[:c.shape.managers] {
		if m.configured == version || m.running == version {
			return fmt.Errorf("%s signs with it", managerName(i))
		}
	}
	for i, n := range c.nodes {
		if n.phase != away && n.version <= version && !n.late {
			return fmt.Errorf("node-%d is of its time", i)
		}
	}
	if c.held().has(version) {
		return errors.New("a Secret or a pod holds a token of it")
	}
	if c.shape.awaits && c.issued.has(version) && !c.overdue {
		return errors.New("a token of it has not expired")
	}
	return nil
}

// checkStore allows the next version to come, and the last one to go once it is nowhere else.
func checkStore(was, is *cluster) error {
	if gained := is.stored &^ was.stored; gained != 0 {
		if gained.max() != was.wanted || was.stored != 0 && was.stored != setOf(int(was.wanted)-1) {
			return fmt.Errorf("key version %d joins %v", gained.max(), was.stored.list())
		}
	}
	gone := was.stored &^ is.stored
	if gone == 0 {
		return nil
	}
	v := gone.min()
	for i, s := range was.each {
		if !s.counts() {
			continue
		}
		if s.configured.verify.has(v) || s.running.verify.has(v) || s.loaded.verify.has(v) {
			return fmt.Errorf("key version %d is deleted while %s accepts it", v, serverName(i))
		}
		if s.remembers {
			return fmt.Errorf("key version %d is deleted while %s remembers tokens of it", v, serverName(i))
		}
	}
	if was.fleet.accepts.has(v) {
		return fmt.Errorf("key version %d is deleted while the fleet accepts it", v)
	}
	if err := was.checkUnused(v); err != nil {
		return fmt.Errorf("key version %d is deleted: %w", v, err)
	}
	return nil
}

// checkState holds the cluster itself to what its users were promised.
func (c *cluster) checkState() error {
	for i, n := range c.nodes {
		if n.copied {
			return fmt.Errorf("pods of node-%d started with a legacy token that dies in this rotation", i)
		}
	}
	out := 0
	needed := c.issued | c.held()
	for i, s := range c.each {
		if s.ours {
			out++
		}
		if !s.counts() {
			continue // it is brought up, or it goes: see checkLaggards
		}
		if s.phase == away || s.loaded != s.running && !s.running.external {
			continue // nobody asks it, or somebody broke it
		}
		if refused := needed &^ s.loaded.verify; refused != 0 {
			return fmt.Errorf("%s refuses a token of key version %d", serverName(i), refused.max())
		}
	}
	if out > 1 {
		return fmt.Errorf("%d API servers are out because of the rotation", out)
	}
	if c.fleet.lost {
		return nil
	}
	// The fleet learns of a new cluster some time after the first tokens of it.
	if refused := needed &^ c.fleet.accepts &^ setOf(1); c.shape.fleet && refused != 0 ||
		c.fleet.proven&needed&^c.fleet.accepts != 0 {
		return fmt.Errorf("the fleet refuses a token of key version %d", refused.max())
	}
	return nil
}
