package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// Machine is where was measured, as far as it matters.
type Machine struct {
	CPU        string  `json:"cpu"`
	Cores      int     `json:"cores"`
	MemoryGiB  float64 `json:"memoryGiB"`
	Kernel     string  `json:"kernel"`
	Filesystem string  `json:"filesystem"`
	Kubernetes string  `json:"kubernetes"`
	Go         string  `json:"go"`
	// Load is the average number of processes that wanted to run in the minute before the benchmark began.
	Load float64 `json:"load"`
}

// describe describes this machine; dir is where the clusters live. What it cannot find out is left empty.
func describe(dir string) Machine {
	m := Machine{
		CPU: cpu(), Cores: runtime.NumCPU(), Kernel: firstLine("/proc/sys/kernel/osrelease"),
		Filesystem: filesystem(dir), Kubernetes: "v" + kubernetesVersion, Go: runtime.Version(),
	}
	if total, err := readMegabytes("/proc/meminfo", "MemTotal"); err == nil {
		m.MemoryGiB = total / 1024
	}
	_, _ = fmt.Sscan(firstLine("/proc/loadavg"), &m.Load)
	return m
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GiB, Linux %s, %s; Kubernetes %s, %s; load before: %.2f",
		m.CPU, m.Cores, m.MemoryGiB, m.Kernel, m.Filesystem, m.Kubernetes, m.Go, m.Load)
}

func cpu() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return string(line)
}

// filesystem names the file system of a directory. On tmpfs etcd writes to memory, and the figures say little.
func filesystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return ""
	}
	names := map[uint32]string{ // magic numbers of statfs(2)
		0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x794c7630: "overlayfs", 0x01021994: "tmpfs", 0x2fc12fc1: "zfs",
	}
	if name, ok := names[uint32(s.Type)]; ok {
		return name
	}
	return fmt.Sprintf("file system %#x", s.Type)
}
