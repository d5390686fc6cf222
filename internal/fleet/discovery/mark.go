package discovery

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/strictjson"
	"github.com/keyturn/keyturn/jwks"
)

// mark is what Keyturn adds to the objects. Verifiers ignore unknown members (OpenID Connect Discovery 1.0, section 3;
// RFC 7517, section 5).
type mark struct {
	// Cluster is the UID of the UserCluster that the object belongs to.
	Cluster string `json:"keyturn.dev/cluster-uid"`
	// Stage is the fleet.Stage of the keys of a JWKS.
	Stage int `json:"keyturn.dev/stage,omitempty"`
}

// on adds the mark to a JSON object that has other members.
func (m mark) on(object []byte) []byte {
	members, err := json.Marshal(m)
	if err != nil {
		panic(err) // a string and an integer always encode
	}
	return slices.Concat(object[:len(object)-1], []byte(","), members[1:])
}

// markOf reads the mark of an object; it is zero if the object has none.
func markOf(data []byte) (m mark) {
	members, err := strictjson.Members(data)
	if err != nil || len(data) > jwks.MaxSize {
		return mark{}
	}
	m.Cluster, _ = strictjson.Text(members["keyturn.dev/cluster-uid"])
	if err := json.Unmarshal(members["keyturn.dev/stage"], &m.Stage); err != nil {
		m.Stage = 0
	}
	return m
}

func (b *Bucket) markDifference(data []byte) string {
	if markOf(data).Cluster != b.o.Cluster {
		return "is not marked as the cluster's"
	}
	return ""
}

// isOurs reports whether one of the objects has the mark of the cluster.
func (b *Bucket) isOurs(is served) bool {
	return markOf(is.discovery.data).Cluster == b.o.Cluster || markOf(is.keys.data).Cluster == b.o.Cluster
}

// checkOwner refuses objects that are not the cluster's. An unmarked object of its issuer is accepted: a person, or an
// earlier version of Keyturn, may have created it.
func (b *Bucket) checkOwner(is served) error {
	for _, o := range []struct {
		name string
		data []byte
	}{{discoveryName, is.discovery.data}, {jwksName, is.keys.data}} {
		if owner := markOf(o.data).Cluster; owner != "" && owner != b.o.Cluster {
			return fmt.Errorf("%w: %s is marked with %.64q, the UID of another UserCluster; "+
				"give each cluster a prefix of its own", fleet.ErrForeign, o.name, owner)
		}
	}
	if !is.discovery.found || markOf(is.discovery.data).Cluster != "" {
		return nil
	}
	members, err := strictjson.Members(is.discovery.data)
	issuer, isText := strictjson.Text(members["issuer"])
	switch {
	case err == nil && isText && issuer != b.o.Issuer:
		return fmt.Errorf("%w: %s is of another issuer; give each issuer a prefix of its own, or delete the object if "+
			"nobody uses it", fleet.ErrForeign, discoveryName)
	case (err != nil || !isText) && !b.isOurs(is):
		return fmt.Errorf("%w: %s is no discovery document; delete the object if nobody uses it",
			fleet.ErrForeign, discoveryName)
	}
	return nil
}

// checkKeys refuses a JWKS with keys that are not in own, the keys of the cluster: tokens signed with them would be
// refused.
func (b *Bucket) checkKeys(is served, own jwks.Set) error {
	if !is.keys.found {
		return nil
	}
	published, others, err := jwks.ParseUsable(is.keys.data)
	if foreign := missing(published, own); len(foreign) > 0 {
		return fmt.Errorf("%w: %s", fleet.ErrForeign, noteForeign(foreign))
	}
	if (err != nil || others > 0) && !b.isOurs(is) {
		return fmt.Errorf("%w: %s does not hold keys of the cluster; delete the object if nobody uses it",
			fleet.ErrForeign, jwksName)
	}
	return nil
}

// checkStage refuses to go back to keys of an earlier step.
func (b *Bucket) checkStage(is served, stage int) error {
	if there := markOf(is.keys.data); there.Cluster == b.o.Cluster && there.Stage > stage {
		return fmt.Errorf("%w: %s is at stage %d, and this would be %d; delete the object if the cluster was restored from "+
			"a backup", fleet.ErrStale, jwksName, there.Stage, stage)
	}
	return nil
}
