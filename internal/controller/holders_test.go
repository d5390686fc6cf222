package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/internal/rotation"
)

// TestOldTokens names some of the pods that keep an old token, and counts all.
func TestOldTokens(t *testing.T) {
	if got := oldHolders(nil); got != nil {
		t.Errorf("of none: %+v", got)
	}
	held := []podtokens.Token{
		{Kind: podtokens.Legacy, Secret: "reader", Way: podtokens.Environment, Container: "main"},
		{Kind: podtokens.Legacy, Secret: "mount", Way: podtokens.Driver},
		{Kind: podtokens.ThirdParty, Volume: "data", Way: podtokens.Driver},
	}
	var holders []nodes.Holder
	for i := range maxHolders + 1 {
		holders = append(holders, nodes.Holder{Namespace: "ns", Pod: fmt.Sprintf("p%d", i), Tokens: held})
	}
	got := oldHolders(holders)
	if got.Total != maxHolders+1 || len(got.Pods) != maxHolders {
		t.Errorf("%d of %d are named", len(got.Pods), got.Total)
	}
	want := v1alpha1.OldTokenHolder{Namespace: "ns", Name: "p0",
		Holds: "the token of Secret reader by environment of container main, " +
			"the token of Secret mount by driver, a token with the driver of volume data"}
	if got.Pods[0] != want {
		t.Errorf("got %+v", got.Pods[0])
	}
	got.Pods = got.Pods[:1]
	if names := holderNames(got); !strings.HasPrefix(names, "ns/p0 (the token of Secret reader") {
		t.Errorf("told as %q", names)
	}
}

// TestProvenAt takes the latest time by which API servers proved to sign with the newest key, if all of them did.
func TestProvenAt(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	server := func(signs int) rotation.Server { return rotation.Server{Signs: signs} }
	leaving := rotation.Server{Leaving: true, Signs: 1}
	for _, test := range []struct {
		name    string
		servers []rotation.Server
		issued  []time.Time
		want    time.Time
	}{
		{"all", []rotation.Server{server(2), server(2)}, []time.Time{at(7), at(5)}, at(7)},
		{"one signs with the old key", []rotation.Server{server(2), server(1)}, []time.Time{at(7), at(8)}, time.Time{}},
		{"one gave no proof", []rotation.Server{server(2), server(2)}, []time.Time{at(7), {}}, time.Time{}},
		{"one is leaving", []rotation.Server{leaving, server(2)}, []time.Time{at(9), at(5)}, at(5)},
		{"none", nil, nil, time.Time{}},
	} {
		o := observation{Observed: rotation.Observed{Stored: []int{1, 2}, Servers: test.servers}, issued: test.issued}
		if got := o.provenAt(); !got.Equal(test.want) {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}
