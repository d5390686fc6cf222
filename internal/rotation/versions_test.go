package rotation

import (
	"reflect"
	"testing"
)

// TestVersions holds the three versions to what is seen of a rotation from 1 to 2, where it is not what the
// processes were started with.
func TestVersions(t *testing.T) {
	both := []int{1, 2}
	files := func(sign int) Keys { return Keys{Verify: both, Sign: sign} }
	signer := func(sign int) Keys { return Keys{Verify: both, Sign: sign, External: true} }
	// given is an API server of which nothing is known but the keys that it was given.
	given := func(k Keys) *Server { return &Server{Name: "cp-0", Configured: k, Running: k, Ready: true} }
	with := func(s *Server, change func(*Server)) *Server {
		change(s)
		return s
	}
	refreshed := Observed{Legacy: Legacy{Proven: 2, Final: 2}, Nodes: Nodes{Converged: true, Oldest: 2}}
	nodes := func(n Nodes) Observed {
		o := refreshed
		o.Nodes = n
		return o
	}
	published := func(p Publication) Observed { return Observed{Publications: []Publication{p}} }
	dropped := Keys{Verify: []int{2}, Sign: 2, External: true}
	retiring := Server{Name: "cp-1", Configured: dropped, Signs: 2, Accepts: dropped.Verify}
	tests := []struct {
		name   string
		server *Server
		o      Observed
		want   Versions
	}{
		{"nothing is known but what it was given", given(files(2)), Observed{}, Versions{1, 2, both}},
		{"it signs with another key", with(given(files(2)), func(s *Server) {
			s.Signs = 1
		}), refreshed, Versions{1, 1, both}},
		{"it accepts another key", with(given(files(2)), func(s *Server) {
			s.Accepts = []int{1}
		}), refreshed, Versions{2, 2, []int{1}}},
		{"it refuses the new key", with(given(files(2)), func(s *Server) {
			s.Refuses = []int{2}
		}), refreshed, Versions{2, 2, []int{1}}},
		{"the old process runs", with(given(files(2)), func(s *Server) {
			s.Running = files(1)
		}), Observed{}, Versions{1, 1, both}},
		{"it is down", with(given(files(2)), func(s *Server) {
			s.Running = Keys{}
		}), Observed{}, Versions{1, 2, both}},
		{"it is down, and has a signer", with(given(signer(2)), func(s *Server) {
			s.Running = Keys{}
		}), Observed{}, Versions{1, 2, both}},
		{"it leaves, and no other is there", with(given(files(1)), func(s *Server) {
			s.Leaving = true
		}), Observed{}, Versions{1, 1, []int{1}}},
		{"tokens are refreshed", given(files(2)), refreshed, Versions{2, 2, both}},
		{"a node is from before", given(files(2)), nodes(Nodes{Converged: true, Oldest: 1}), Versions{1, 2, both}},
		{"nodes are to come", given(files(2)), nodes(Nodes{}), Versions{1, 2, both}},
		{"its signer may have the new key", given(signer(1)), Observed{}, Versions{1, 1, []int{1}}},
		{"its signer may sign with the new key", given(signer(2)), Observed{}, Versions{1, 1, both}},
		{"managers followed its signer", given(signer(2)), Observed{
			ControllerManagers: []ControllerManager{{Configured: 2, Running: 2}},
		}, Versions{1, 2, both}},
		{"another one retires the old key", given(signer(2)), Observed{Servers: []Server{retiring}}, Versions{2, 2, both}},
		{"it refuses the new key while another retires", with(given(signer(2)), func(s *Server) {
			s.Refuses = both
		}), Observed{Servers: []Server{retiring}}, Versions{2, 2, both}},
		{"a destination accepts the new key", given(files(1)), published(Publication{Accepts: both}), Versions{1, 1, both}},
		{"a destination does not", given(files(1)), published(Publication{Accepts: []int{1}}), Versions{1, 1, []int{1}}},
		{"a destination gives no answer", given(files(1)), published(Publication{
			Accepts: both, Waiting: "no answer",
		}), Versions{1, 1, []int{1}}},
	}
	for _, test := range tests {
		o := test.o
		o.Wanted, o.Stored, o.Presence = 2, both, PresencePresent
		o.Servers = append([]Server{*test.server}, o.Servers...)
		if got := versions(o); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: versions %v, want %v", test.name, got, test.want)
		}
	}
}
