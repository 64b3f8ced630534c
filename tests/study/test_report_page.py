"""The page in a real browser: no console message, every layer chosen by mouse and keys, at three sizes, light and dark."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from sparse_icnet.study.report import html_of
from sparse_icnet.study.report.data import Kind, LayerTime, Point, Report, Roofline
from sparse_icnet.study.timing import Spread

selenium = pytest.importorskip("selenium", reason="the page is tested in a browser: extra test-web")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SIZES = ((360, 800), (820, 1180), (1440, 900))
SCHEMES = ("light", "dark")
# The drawing that is visible, as the page's script sees it.
DRAWING = "const drawing = [...document.querySelectorAll('svg.network')].find(s => s.getBoundingClientRect().width);"
SHOWN = "[...document.querySelectorAll('article.layer-part')].filter(a => a.offsetHeight).map(a => a.dataset.layer)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that is shut in: no network, an empty profile."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (found and driver):
        pytest.skip(f"no browser to test the page in: expected one of {', '.join(BROWSERS)} and chromedriver")
    options = Options()
    options.binary_location = found
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(icnet_report, hostile_report, tmp_path_factory):
    """ICNet, a network with hostile names, and ICNet with times, as files."""
    folder = tmp_path_factory.mktemp("pages")
    reports = {"icnet": icnet_report, "other": hostile_report, "timed": with_times(icnet_report)}
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(html_of(report), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in reports}


def with_times(report: Report) -> Report:
    """As if layers had been measured: layer k takes k + 1 ms."""
    layers, points = [], []
    for layer in report.layers:
        seconds = 1e-3 * (layer.index + 1)
        time = LayerTime(
            seconds, seconds, seconds, 0.01, (), layer.macs / seconds, 0.5, 2 * seconds, seconds, True
        )
        layers.append(replace(layer, time=time))
        points.append(
            Point(layer.index, 5.0 + layer.index, 1e9 * (layer.index + 1), layer.filtered, layer.name)
        )
    return replace(
        report,
        layers=tuple(layers),
        seconds=Spread(0.02, 0.019, 0.021, 9),
        kinds=(Kind("4x6_test", 64, 0.02, 1.0, 0.001, True),),
        roofline=Roofline(4e11, 2e11, 2e10, 1 << 26, tuple(points)),
        disturbed=("The machine was busy.",),
    )


def opened(browser, address: str, size: tuple[int, int], scheme: str):
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(address)
    return browser


def quiet(browser) -> None:
    """Nothing was said on the console since it was last asked."""
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("name", ["icnet", "other"])
@pytest.mark.parametrize("size", SIZES)
def test_every_layer_is_chosen_by_mouse_and_by_keys(browser, pages, name, size):
    opened(browser, pages[name], size, "light")
    layers = browser.execute_script("return document.querySelectorAll('article.layer-part').length")
    wanted = [str(number) for number in range(layers)]
    # What lies under the middle of a box is the box: nothing covers it.
    clicked = browser.execute_script(f"""
        {DRAWING}
        return [...drawing.querySelectorAll('g.layer')].map(box => {{
            box.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const area = box.getBoundingClientRect();
            const hit = document.elementFromPoint(area.x + area.width / 2, area.y + area.height / 2);
            hit.dispatchEvent(new MouseEvent('click', {{bubbles: true}}));
            return [box.dataset.layer, box.getAttribute('aria-pressed'), {SHOWN}];
        }})""")
    assert sorted(clicked) == sorted([number, "true", [number]] for number in wanted)
    # From the first box the arrow keys reach all others, and Enter chooses each.
    reached = browser.execute_script(f"""
        {DRAWING}
        const press = (box, key) => box.dispatchEvent(new KeyboardEvent('keydown', {{key, bubbles: true}}));
        const first = drawing.querySelector('g.layer');
        first.focus();
        press(first, 'Home');
        const waiting = [document.activeElement], chosen = {{}};
        while (waiting.length) {{
            const box = waiting.pop();
            if (box.dataset.layer in chosen) continue;
            box.focus();
            press(box, 'Enter');
            chosen[box.dataset.layer] = {SHOWN};
            for (const key of ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown']) {{
                box.focus();
                press(box, key);
                waiting.push(document.activeElement);
            }}
        }}
        return chosen;""")
    assert reached == {number: [number] for number in wanted}
    quiet(browser)


def test_real_mouse_and_keys(browser, pages):
    opened(browser, pages["icnet"], SIZES[2], "light")
    drawing = browser.find_element(By.CSS_SELECTOR, "svg.network.wide")
    box = drawing.find_element(By.CSS_SELECTOR, "g[aria-label^='conv4_2/3x3']")
    ActionChains(browser).move_to_element(box).click().perform()
    heading = next(one for one in browser.find_elements(By.TAG_NAME, "h3") if one.is_displayed())
    assert heading.text == "conv4_2/3x3"
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ENTER).perform()
    heading = next(one for one in browser.find_elements(By.TAG_NAME, "h3") if one.is_displayed())
    assert heading.text == "conv4_3/3x3"
    ring = browser.switch_to.active_element.find_element(By.CSS_SELECTOR, ".ring")
    assert float(ring.value_of_css_property("stroke-width").removesuffix("px")) >= 3, "no focus to be seen"
    names = [one.get_attribute("textContent") for one in browser.find_elements(By.TAG_NAME, "h3")]
    number = names.index("conv4_3/3x3")
    assert browser.current_url.endswith(f"#layer-{number}")
    browser.find_element(By.CSS_SELECTOR, "button[aria-label='next layer']").click()
    assert browser.execute_script(f"return {SHOWN}") == [str(number + 1)]
    quiet(browser)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_nothing_overflows_and_boxes_are_readable(browser, pages, size, scheme):
    for name in ("icnet", "other"):
        opened(browser, pages[name], size, scheme)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= size[0]
        ratios = browser.execute_script(f"""
            {DRAWING}
            const light = colour => {{
                const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(part => {{
                    const x = part / 255;
                    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
                }});
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            }};
            const found = {{}};
            for (const radio of document.querySelectorAll("input[name='metric']")) {{
                radio.click();
                for (const box of drawing.querySelectorAll('g.layer')) {{
                    const fill = box.querySelector('.fill');
                    fill.getAnimations().forEach(one => one.finish());
                    const [a, b] = [fill, box.querySelector('.value')].map(one => light(getComputedStyle(one).fill));
                    const key = `${{radio.value}} ${{fill.getAttribute('class')}}`;
                    found[key] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                }}
            }}
            return found;""")
        assert min(ratios.values()) >= 4.5, ratios
    quiet(browser)


def test_colours_change_numbers_and_legend(browser, pages):
    opened(browser, pages["icnet"], SIZES[2], "light")
    value = browser.find_element(By.CSS_SELECTOR, "svg.network.wide g[aria-label^='conv3_1/3x3'] .value")
    before = value.text
    for radio in browser.find_elements(By.CSS_SELECTOR, "input[name='metric']"):
        browser.execute_script("arguments[0].click()", radio)
        legends = [one for one in browser.find_elements(By.CSS_SELECTOR, "ul.legend") if one.is_displayed()]
        assert [one.get_attribute("data-metric") for one in legends] == [radio.get_attribute("value")]
    assert before.endswith(" %")
    assert value.text == "64→64 3x3"
    quiet(browser)


@pytest.mark.parametrize("size", SIZES)
def test_times(browser, pages, size):
    opened(browser, pages["timed"], size, "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert browser.execute_script(f"return {SHOWN}") == ["63"], "the slowest layer is shown first"
    assert browser.find_element(By.CSS_SELECTOR, "p.warning").text == "The machine was busy."
    clicked = browser.execute_script(f"""
        const chart = [...document.querySelectorAll('svg.roofline')].find(s => s.getBoundingClientRect().width);
        return [...chart.querySelectorAll('.point')].map(point => {{
            point.dispatchEvent(new MouseEvent('click', {{bubbles: true}}));
            const marked = [...document.querySelectorAll('tr.current')].map(row => row.dataset.layer);
            return [point.dataset.layer, {SHOWN}, marked];
        }})""")
    assert sorted(clicked) == sorted([str(number), [str(number)], [str(number)]] for number in range(64))
    browser.execute_script("document.querySelector('table.all tr[data-layer=\\'63\\'] button').click()")
    part = next(one for one in browser.find_elements(By.TAG_NAME, "article") if one.is_displayed())
    assert "64.000 ms (quartiles 64.000 to 64.000), 1.0 % of the inference" in part.text
    assert "zeros save 64.00 ms" in part.text
    quiet(browser)


def test_table_sorts(browser, pages):
    opened(browser, pages["icnet"], SIZES[2], "light")
    heading = browser.find_element(By.XPATH, "//table[contains(@class, 'all')]//button[text()='MMAC dense']")
    column = (
        "[...document.querySelectorAll('table.all tbody tr')].map(row => Number(row.cells[5].dataset.value))"
    )
    for reverse in (True, False):
        browser.execute_script("arguments[0].click()", heading)
        values = browser.execute_script(f"return {column}")
        assert values == sorted(values, reverse=reverse)
    quiet(browser)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_print_holds_the_whole_drawing_dark_on_white(browser, pages, scheme):
    opened(browser, pages["icnet"], SIZES[0], "light")
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        shown = browser.execute_script(
            "return [...document.querySelectorAll('svg.network')].filter(s => s.getBoundingClientRect().width)"
            ".map(s => s.dataset.shape)"
        )
        assert shown == ["wide"]
        body = browser.find_element(By.TAG_NAME, "body")
        assert body.value_of_css_property("background-color") == "rgba(255, 255, 255, 1)"
        assert body.value_of_css_property("color") == "rgba(27, 36, 48, 1)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    quiet(browser)


def test_without_script_every_layer_is_shown(browser, pages):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, pages["other"], SIZES[1], "light")
        parts = browser.find_elements(By.CSS_SELECTOR, "article.layer-part")
        assert all(part.is_displayed() for part in parts)
        values = browser.find_elements(By.CSS_SELECTOR, "svg.network.tall .value")
        assert all(value.text.endswith(" %") for value in values)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    quiet(browser)
